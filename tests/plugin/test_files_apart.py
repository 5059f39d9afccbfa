"""Files of tests that start what a fork would lose: their tests alone pay, whatever else is in the run."""

from __future__ import annotations

import textwrap

import pytest

POOL = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import pytest

pytestmark = pytest.mark.elastic(nprocs=1)  # Which costs one fresh interpreter.
born, pool = os.getpid(), ThreadPoolExecutor(1)
assert pool.submit(abs, -1).result() == 1

def test_pool(world, value):
    assert pool.submit(abs, -1).result() == 1
    assert (os.getpid(), value) == (born, 5)
    world.barrier()

def test_pool_again(rank):
    assert pool.submit(abs, -2).result() == 2
"""
CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def value():
    return 5
"""
FORKED = """
import os, sys, pytest

born = os.getpid()

def test_forked(world, value, tmp_path):
    assert value == 5 and born != os.getpid() and "test_b_pool" not in sys.modules
    assert sorted(world.gather(tmp_path)) == sorted({*world.gather(tmp_path)})

@pytest.mark.parametrize("turn", [1, 2])
def test_fails(rank, turn):
    assert rank < turn, "as it should"

def test_function(elastic):
    me = os.getpid()
    assert elastic.run(lambda rank, n: born not in (os.getpid(), me), nprocs=2) == [True, True]
"""
FILES = {"conftest": CONFTEST, "test_b_pool": POOL, "test_c": FORKED}
ONE = "@pytest.mark.elastic(nprocs=1)\n"
OF_POOL = "(threads that the tests' modules started are alive: ThreadPoolExecutor-*)"


@pytest.mark.parametrize("other", [[], ["-p", "xdist", "-n1"], ["-p", "pytest_cov", "--cov=."]], ids=" ".join)
def test_one_file_with_a_pool_costs_no_other_file_its_forks(run, other):
    """Outcomes and fixtures are those of any run; the header says which tests are spawned, and why."""
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_cov")
    result = run(FORKED, *other, **FILES)
    result.assert_outcomes(passed=8, failed=2)
    if "-n1" not in other:
        result.stdout.fnmatch_lines(
            [
                "elastic: 8 on ranks, start method fork (of an interpreter that did not import test_b_pool.py)",
                f"elastic: 2 of them, in test_b_pool.py, start method spawn {OF_POOL}",
            ]
        )


def test_a_file_with_a_pool_is_apart_in_runs_of_some_tests(run):
    """Named ones, whether they are in that file or not, and those that failed the last time."""
    result = run(FORKED, "test_c.py::test_fails", "test_b_pool.py::test_pool", "-rA", **FILES)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*in test_b_pool.py, start method spawn*"])
    files = {**FILES, "test_b_pool": f"{POOL}\ndef test_bad(rank): assert 0\n"}
    run("", **files).assert_outcomes(passed=5, failed=2)
    again = run("", "--lf", **files)
    again.assert_outcomes(failed=2)
    again.stdout.fnmatch_lines(["*1 of them, in test_b_pool.py, start method spawn*"])


def test_what_a_library_starts_is_every_file_s_that_imports_it(run):
    """In pytest only the first file is seen to start it; the others are found out one by one."""
    user = f"import library, os, pytest\nborn = os.getpid()\n{ONE}def test_it(world): assert born == os.getpid()\n"
    result = run(
        FORKED,
        conftest=CONFTEST,
        library="import threading\nthreading.Thread(target=threading.Event().wait, daemon=True, name='poller').start()",
        test_b_pool=user,
        test_c=FORKED,
        test_d=user,
        test_e=FORKED,
    )
    result.assert_outcomes(passed=11, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*start method fork (of an interpreter that did not import test_b_pool.py and 1 more)",
            "elastic: 1 of them, in test_b_pool.py, start method spawn (threads*: poller)",
            "elastic: 1 of them, in test_d.py, start method spawn (threads*: poller)",
        ]
    )


def test_native_threads_of_one_file(run):
    """A pool of which Python knows nothing is that file's, too."""
    native = """
    import ctypes, pytest
    libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
    libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)
    @pytest.mark.elastic(nprocs=1)
    def test_native(rank): pass
    """
    result = run(FORKED, **FILES, test_d=native)
    result.assert_outcomes(passed=9, failed=2)
    result.stdout.fnmatch_lines(["*1 of them, in test_d.py, start method spawn (native threads of *"])


def test_a_start_method_that_is_asked_for_wins(run):
    """By a marker for a test, in whichever file, and by the option for the run."""
    asks = """
    import os, pytest
    born = os.getpid()

    @pytest.mark.elastic(start_method="spawn")
    def test_spawn(rank): assert born == os.getpid()

    @pytest.mark.elastic(start_method="fork")
    def test_fork(rank): assert born != os.getpid()

    def test_neither(rank): assert born != os.getpid()
    """
    run(asks, test_b_pool=POOL, conftest=CONFTEST).assert_outcomes(passed=5)
    result = run(asks, "--elastic-start-method=spawn", "-rA")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["elastic: 5 on ranks, start method spawn (as asked)"])


def test_threads_of_a_conftest_file_are_nobody_s_else(run):
    """No file can be left out: all ranks are spawned."""
    thread = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True, name='all').start()"
    )
    code = f"import pytest\n{ONE}def test_it(rank): pass"
    result = run(code, conftest=f"{CONFTEST}\n{thread}", test_b_pool=POOL)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["elastic: 3 on ranks, start method spawn (*: all; *)"])


def test_a_file_that_ends_the_clean_interpreter_is_apart(run):
    """So is a process that it has started there: none is left."""
    ends = """
    import os, subprocess, sys
    if "PYTEST_ELASTIC_RANK" in os.environ and "RANK" not in os.environ:
        subprocess.Popen(["sleep", "300"])
        os._exit(3)
    import pytest
    @pytest.mark.elastic(nprocs=1)
    def test_it(rank): pass
    """
    result = run(FORKED, **FILES, test_d=ends)
    result.assert_outcomes(passed=9, failed=2)
    result.stdout.fnmatch_lines(["*in test_d.py, start method spawn (the interpreter ended)"])


def test_a_clean_interpreter_that_does_not_come_up_is_told_of(run):
    """All ranks are spawned then, and the header has the end of its log."""
    ends = """
    import os
    if "PYTEST_ELASTIC_RANK" in os.environ and "RANK" not in os.environ:
        raise RuntimeError("not today")
    """
    conftest = textwrap.dedent(ends) + CONFTEST
    code = f"import pytest\n{ONE}def test_it(world): world.barrier()"
    result = run(code, conftest=conftest, test_b_pool=POOL)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["*start method spawn (*without test_b_pool.py ended; its log ends:", "*not today*"]
    )


def test_a_clean_interpreter_that_hangs_does_not_outlive_pytest(session, tmp_path):
    """Its process, in the import of a file, ends with pytest's SIGKILL."""
    hangs = """
    import os, pathlib, time
    if "PYTEST_ELASTIC_RANK" in os.environ:
        pathlib.Path("hangs").touch()
        time.sleep(300)
    def test_it(rank): pass
    """
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_pool.py").write_text(POOL)
    running = session(hangs)
    running.wait_for((tmp_path / "hangs").exists, 60)
    running.process.kill()
    running.wait_for(lambda: not running.survivors(), 5)


def test_a_list_of_tests_starts_no_interpreter(run):
    """With `--collect-only` the header says what a run would do."""
    conftest = f'import os\nif "PYTEST_ELASTIC_RANK" in os.environ: open("started", "w")\n{CONFTEST}'
    result = run("def test_it(world): world.barrier()", "--collect-only", conftest=conftest, test_b_pool=POOL)
    result.stdout.fnmatch_lines(["*start method fork (of an interpreter that did not import test_b_pool.py)"])
