"""Kernels of bugs, run by pytest in a process of its own: what it reported, and what was diagnosed.

A kernel is a module of two tests in a folder `corpus`: `test_buggy`, and `test_fixed`, its repaired twin.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path
from types import ModuleType
from typing import Any


def load_kernel(path: Path) -> ModuleType:
    """The module, which says what is to be found."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def run_kernels(directory: Path, corpus: Path, *arguments: str, seconds: float) -> None:
    """Run all kernels of a corpus, at most so long; `KernelRun` reads what was written into the directory."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_files=k*.py",
        "--rootdir", str(directory), f"--confcutdir={corpus}", f"--junitxml={directory / 'junit.xml'}",
        f"--elastic-artifacts={directory / 'artifacts'}", *arguments, str(corpus),
    ]  # fmt: skip
    with (directory / "output").open("w") as output:
        subprocess.run(command, stdout=output, timeout=seconds, check=False)


class KernelRun:
    """What one run of all kernels of a corpus gave."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.output = directory, (directory / "output").read_text()
        cases = xml.parse(directory / "junit.xml").iter("testcase")
        self._cases = {
            (case.get("classname", "").rpartition(".")[2], case.get("name")): case for case in cases
        }

    def failed(self, kernel: str, name: str) -> bool:
        """Whether a test failed, or could not be run."""
        case = self._cases[kernel, name]
        return any(case.find(kind) is not None for kind in ("failure", "error"))

    def diagnosis(self, kernel: str, name: str) -> dict[str, Any] | None:
        """The diagnosis that was written for a test."""
        found = list((self.directory / "artifacts").glob(f"*{kernel}*-{name}-*/hang.json"))
        return json.loads(found[0].read_text()) if found else None

    def properties(self, kernel: str, name: str) -> dict[str, str]:
        """The properties of a test in the JUnit file."""
        found = self._cases[kernel, name].iter("property")
        return {one.get("name", ""): one.get("value", "") for one in found}
