"""Recall on real ranks: every kernel of a collective's bug is named as it should be, and no repaired twin is accused.

`kernels` says what a kernel is.  Of `test_fixed` nothing is said.  All are run twice: checked, with gloo below, and
carried by the store.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kernels import CORPUS, KERNELS, wrong

MODES = ("check", "carry")

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


class Run:
    """What one run of all kernels gave."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.directory = directory
        arguments = [
            "-q", "-p", "no:cacheprovider", "-o", "python_files=k*.py", "--rootdir", str(directory), f"--confcutdir={CORPUS}",
            f"--junitxml={directory / 'junit.xml'}", f"--elastic-artifacts={directory / 'artifacts'}",
            f"--elastic-collectives={mode}",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, str(CORPUS)],
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        self.output = done.stdout
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
    return Run(tmp_path_factory.mktemp(request.param), request.param)


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
