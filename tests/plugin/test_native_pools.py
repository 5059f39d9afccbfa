"""Thread pools of native libraries that ran while the tests were collected: which a fork survives, and how."""

from __future__ import annotations

import importlib.util

import pytest

NATIVE = """
import ctypes, pytest
libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)
"""
OPENMP = """
import ctypes, ctypes.util, glob, os, sys
from importlib.util import find_spec

def parallel():
    gomp.GOMP_parallel(ctypes.CDLL(None).getpid, None, 2, 0)

torch = find_spec("torch")
path = ctypes.util.find_library("gomp") or glob.glob(os.path.dirname(torch.origin) + "/lib/libgomp*")[0]
gomp = ctypes.CDLL(path)
parallel()
"""


def needs_openmp() -> None:
    """Skip where there is no OpenMP runtime of GNU."""
    from ctypes.util import find_library

    if find_library("gomp") is None and importlib.util.find_spec("torch") is None:
        pytest.skip("no libgomp, neither the system's nor torch's")


def test_native_threads_that_a_fork_would_lose(run):
    """A pool of which Python knows nothing makes `auto` choose fresh interpreters, and say where it waits."""
    result = run(f"{NATIVE}\ndef test_it(rank): pass\n", "--elastic-nprocs=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*start method spawn (native threads of libc* are alive, which a fork would lose)"]
    )


@pytest.mark.parametrize(
    ("name", "owner"), [("polars-0", "polars"), ("tf_XLAEigen", "XLA*"), ("tokio-rt-worker", "tokio")]
)
def test_a_known_pool_is_called_by_its_library(run, name, owner):
    """By the names that its threads have."""
    named = f"import time; time.sleep(0.1); libc.pthread_setname_np(thread, b'{name}')"
    result = run(f"{NATIVE}\n{named}\ndef test_it(rank): pass\n", "--collect-only")
    result.stdout.fnmatch_lines([f"*spawn (native threads of {owner} are alive, which a fork would lose)"])


def test_a_pool_that_its_library_makes_anew_costs_no_fresh_interpreter(run):
    """As jemalloc does with its thread."""
    named = "import time; time.sleep(0.1); libc.pthread_setname_np(thread, b'jemalloc_bg_thd')"
    result = run(f"{NATIVE}\n{named}\ndef test_it(rank): pass\n")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*start method fork (*)"])


@pytest.mark.parametrize("method", ["auto", "fork"])
def test_openmp_that_ran_at_import_runs_in_forked_ranks(run, method):
    """Its pool is ended before the fork, and made anew by whoever needs one."""
    needs_openmp()
    result = run(
        f"{OPENMP}\ndef test_it(world):\n    parallel()\n    world.barrier()\n",
        f"--elastic-start-method={method}",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*start method fork (*)"])


def test_pools_that_survive_a_fork_do_not_cost_a_fresh_interpreter(run_with_libraries):
    """That of numpy's BLAS, which expects forks, and torch's, which are ended before or made anew after one."""
    if (
        importlib.util.find_spec("torch") is None
    ):  # `importorskip` would have pytester forget it: torch comes only once.
        pytest.skip("torch is not installed")
    code = """
    import numpy, torch
    numpy.ones((300, 300)) @ numpy.ones((300, 300))
    torch.set_num_threads(2)
    torch.ones(1 << 20).add_(1)

    def test_it(rank):
        torch.set_num_threads(2)
        assert torch.ones(1 << 20).add_(1).sum() == 2 << 20
        assert (numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0] == 300
    """
    for threads in (1, 0):
        result = run_with_libraries(code, "--elastic-nprocs=1", "-o", f"elastic_torch_threads={threads}")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*start method fork (*)"])


def test_numba_that_ends_forks_has_fresh_interpreters(run):
    """Its layer on OpenMP remembers the process in which it began."""
    result = run(
        """
        import sys, types
        numba = sys.modules["numba"] = types.ModuleType("numba")
        numba.threading_layer = lambda: "omp"

        def test_it(rank): pass
        """,
        "--collect-only",
    )
    result.stdout.fnmatch_lines(["*start method spawn (numba ran a parallel loop on OpenMP, *)"])
