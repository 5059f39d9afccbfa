"""Kernels of bugs, run by pytest in a process of its own: what it reported, and what was diagnosed.

A kernel is a module of two tests in a folder `corpus`: `test_buggy`, and `test_fixed`, its repaired twin.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from interpreters import Template

SIDE_BY_SIDE = 3  # Most of the time ranks of kernels wait, or are waited for.


def expected_of(path: Path) -> SimpleNamespace:
    """What a kernel says is to be found: its literal constants.  What it imports, as torch, is not needed."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and not any(isinstance(one, ast.Call) for one in ast.walk(node)):
            (target,), value = node.targets, ast.literal_eval(node.value)
            names = [one.id for one in ast.walk(target) if isinstance(one, ast.Name)]
            found.update(zip(names, value if isinstance(value, tuple) else (value,), strict=True))
    return SimpleNamespace(**found)


def load_kernel(path: Path) -> ModuleType:
    """The module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def run_kernels(template: Template, directory: Path, corpus: Path, *arguments: str, seconds: float) -> None:
    """Run all kernels of a corpus, at most so long; `KernelRun` reads what was written into the directory."""
    kernels = sorted(map(str, corpus.glob("k*.py")))

    def run(part: int) -> None:
        options = [
            "-q", "-p", "no:cacheprovider", "-o", "python_files=k*.py", "--rootdir", str(corpus),
            f"--confcutdir={corpus}", f"--junitxml={directory / f'{part}.xml'}",
            f"--elastic-artifacts={directory / 'artifacts'}", f"--basetemp={directory / f'temp{part}'}",
        ]  # fmt: skip
        mine = kernels[part::SIDE_BY_SIDE]
        template.run_to_end([*options, *arguments, *mine], directory, directory / f"{part}.output", seconds)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(run, range(SIDE_BY_SIDE)))


class KernelRun:
    """What one run of all kernels of a corpus gave."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = "\n".join(path.read_text() for path in sorted(directory.glob("*.output")))
        cases = [case for path in directory.glob("*.xml") for case in xml.parse(path).iter("testcase")]
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
