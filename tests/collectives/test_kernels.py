"""Recall on real ranks: every kernel of a collective's bug is named as it should be, and no repaired twin is accused.

`kernels` says what a kernel is.  Of `test_fixed` nothing is said.  All are run twice: checked, with gloo below, and
carried by the store.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as xml
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kernels import CORPUS, KERNELS, wrong
from shared_run import done_once

MODES = ("check", "carry")

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def run_all(directory: Path, mode: str) -> None:
    """Run all kernels."""
    arguments = [
        "-q", "-p", "no:cacheprovider", "-o", "python_files=k*.py", "--rootdir", str(directory), f"--confcutdir={CORPUS}",
        f"--junitxml={directory / 'junit.xml'}", f"--elastic-artifacts={directory / 'artifacts'}",
        f"--elastic-collectives={mode}",
    ]  # fmt: skip
    with (directory / "output").open("w") as output:
        command = [sys.executable, "-m", "pytest", *arguments, str(CORPUS)]
        subprocess.run(command, stdout=output, timeout=900, check=False)


class Run:
    """What one run of all kernels gave."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.output = directory, (directory / "output").read_text()
        cases = xml.parse(directory / "junit.xml").iter("testcase")
        self.failed = {
            (case.get("classname", "").rpartition(".")[2], case.get("name")): len(case.findall("failure")) > 0
            or len(case.findall("error")) > 0
            for case in cases
        }

    def diagnosis(self, kernel: str, name: str) -> dict[str, Any] | None:
        """The diagnosis that was written for a test."""
        found = list((self.directory / "artifacts").glob(f"*{kernel}*-{name}-*/hang.json"))
        return json.loads(found[0].read_text()) if found else None


@pytest.fixture(scope="session", params=MODES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of them all in a mode."""
    return Run(done_once(tmp_path_factory, request.param, partial(run_all, mode=request.param)))


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_bug_is_named(run: Run, kernel: str) -> None:
    """With the right verdict, ranks, call, operation and line."""
    assert run.failed[kernel, "test_buggy"], run.output
    found = run.diagnosis(kernel, "test_buggy")
    assert wrong(kernel, found) == [], found and found["text"]


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_repaired_twin_is_not_accused(run: Run, kernel: str) -> None:
    """It passes, and no diagnosis is written."""
    assert not run.failed[kernel, "test_fixed"], run.output
    assert run.diagnosis(kernel, "test_fixed") is None
