"""Recall on real ranks: every kernel of a collective's bug is named as it should be, and no repaired twin is accused.

A kernel is a module of two tests.  What is said of `test_buggy` must have the verdict, the ranks, the call
(group and number), the operation, and a line that the module marks.  `test_fixed` passes, and nothing is said.
All are run twice: checked, with gloo below, and carried by the store.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CORPUS = Path(__file__).parent / "corpus"
KERNELS = sorted(path.stem for path in CORPUS.glob("k*.py"))
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


def module(kernel: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(kernel, CORPUS / f"{kernel}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def marked(kernel: str) -> set[str]:
    """The places where ranks hang, or call what the others do not."""
    lines = (CORPUS / f"{kernel}.py").read_text().splitlines()
    return {f"{kernel}.py:{number}" for number, line in enumerate(lines, 1) if line.endswith("# hangs")}


def wrong(kernel: str, found: dict[str, Any] | None) -> list[str]:
    """What is not as it should be in a kernel's diagnosis."""
    if found is None:
        return ["no verdict"]
    expected, said = module(kernel), []
    if found["verdict"] != expected.VERDICT:
        said.append(f"verdict {found['verdict']}")
    if found["ranks"] != expected.RANKS:
        said.append(f"ranks {found['ranks']}")
    calls = found["picture"]["collectives"]
    names = [key for key in found["keys"] if matches(key, expected.CALL)]
    call = next((one for one in calls if one["name"] in names), None)
    if call is None:
        return [*said, f"call {found['keys']}"]
    if expected.OPERATION not in {text.partition("(")[0] for text, _, _ in call["calls"]}:
        said.append(f"operation {call['calls']}")
    if not marked(kernel) & {place for one in calls for _, place, _ in one["calls"]}:
        said.append(f"line {call['calls']}")
    return said


def matches(key: str, pattern: str) -> bool:
    """Whether a call is the expected one; `*` stands for any text."""
    return fnmatch.fnmatchcase(key, re.sub(r"\[", "[[]", pattern))


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
