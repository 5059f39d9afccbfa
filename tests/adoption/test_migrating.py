"""The examples of suites before they were migrated: they run, adopted."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

BEFORE = Path(__file__).parents[2] / "examples" / "migrating" / "before"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_what_is_to_be_migrated_runs_adopted(pytester: pytest.Pytester, run_with_libraries) -> None:
    """Unmodified: the three ways to start ranks by hand are forks."""
    shutil.copytree(BEFORE, pytester.path, dirs_exist_ok=True)
    ran = run_with_libraries("", "-p", "no:cacheprovider", "--elastic-adopt=processes", "-rs")
    passed = len([*BEFORE.glob("test_*.py")]) - (find_spec("expecttest") is None)
    ran.assert_outcomes(passed=passed, skipped=3 - passed)
    ran.stdout.re_match_lines([r"adopted: \d+ processes of \d tests"])
