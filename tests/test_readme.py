"""The README: every block of it is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())


def blocks(language: str) -> list[str]:
    """The README's blocks of one language."""
    return [text for name, text in BLOCKS if name == language]


def test_all_blocks_are_covered():
    """A new kind of block needs a test of its own."""
    assert {name for name, _ in BLOCKS} == {"console", "python", "text"}
    assert [len(blocks(name)) for name in ("console", "python", "text")] == [1, 4, 2]


def test_first_block(run):
    """The tests shown first pass."""
    run(blocks("python")[0]).assert_outcomes(passed=2)


def test_without_pytest(run):
    """The example of the parts as libraries."""
    run(blocks("python")[3]).assert_outcomes(passed=1)


@pytest.mark.parametrize(("number", "name"), [(0, "test_sum"), (1, "test_train")])
def test_the_failure_is_shown_as_it_is(pytester, number, name):
    """The failing test prints what the README says it prints."""
    pytester.makepyfile(**{name: blocks("python")[1 + number]})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    shown = [line for line in blocks("text")[number].splitlines() if line.strip() not in ("", "...")]
    for line in shown:
        # Rules are as wide as the terminal, paths and spans of time are the machine's, and who came least far
        # depends on who was last at the barrier before.
        words = re.sub(r"(^[-_]+ | [-_]+$)", "*", line).replace("[", "[[]").replace("...", "*")
        words = re.sub(r"known [0-9.]+ m?s after|   ← least progress", "*", words)
        result.stdout.fnmatch_lines([words.replace(f"  {name}.py", f"  *{name}.py")])


def test_the_two_commands():
    """What the commands run after installing: the examples on 4 ranks here, the tests are running now."""
    examples, tests = (line.split(" && ")[-1] for line in blocks("console")[0].splitlines())
    assert tests.split()[0] == examples.split()[0] == ".venv/bin/pytest"
    arguments = [sys.executable, "-m", "pytest", *examples.split()[1:], "-p", "no:cacheprovider"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("line", blocks("console")[0].splitlines())
def test_ci_runs_the_same(line):
    """The test command of the README is the one that the gate calls."""
    command = line.split(" && ")[-1].removeprefix("$ ")
    assert command in (ROOT / ".ci" / "run").read_text()
