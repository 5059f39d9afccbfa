"""Recall on real ranks: every kernel of a collective's bug is named as it should be, and no repaired twin is accused.

`kernels` says what a kernel is.  Of `test_fixed` nothing is said.  All are run twice: checked, with gloo below, and
carried by the store.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreters import Template
from kernel_run import KernelRun, run_kernels
from kernels import CORPUS, KERNELS, wrong
from shared_run import done_once

MODES = ("check", "carry")

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(scope="session", params=MODES)
def run(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    template_with_libraries: Template,
) -> KernelRun:
    """One run of them all in a mode."""

    def run(directory: Path) -> None:
        mode = f"--elastic-collectives={request.param}"
        run_kernels(template_with_libraries, directory, CORPUS, mode, seconds=900)

    return KernelRun(done_once(tmp_path_factory, request.param, run))


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_bug_is_named(run: KernelRun, kernel: str) -> None:
    """With the right verdict, ranks, call, operation and line."""
    assert run.failed(kernel, "test_buggy"), run.output
    found = run.diagnosis(kernel, "test_buggy")
    assert wrong(kernel, found) == [], found and found["text"]


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_repaired_twin_is_not_accused(run: KernelRun, kernel: str) -> None:
    """It passes, and no diagnosis is written."""
    assert not run.failed(kernel, "test_fixed"), run.output
    assert run.diagnosis(kernel, "test_fixed") is None
