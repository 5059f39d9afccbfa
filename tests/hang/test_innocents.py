"""Correct programs, about as many as there are ways to be late, are accused of nothing.

Each file of `innocents` is a theme, each test in it a program as users write it; one run of pytest per theme."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path

import pytest

INNOCENTS = Path(__file__).parent / "innocents"
THEMES = sorted(path.stem for path in INNOCENTS.glob("*.py"))
ACCUSING = ("HANG", "can never go on", "suspected", "who waits for whom", "left a process behind", "warning")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("theme", THEMES)
def test_nobody_is_accused(theme: str, tmp_path: Path) -> None:
    """All pass; there is no word of a hang, of a leak or of a warning, and no file about any."""
    if theme.startswith("torch_") and find_spec("torch") is None:
        pytest.skip("torch is not installed")
    arguments = [
        "-q", "-rA", "--capture=fd", "-p", "no:cacheprovider", "-o", "python_files=*.py", "-o", "elastic_leaks=fail",
        f"--confcutdir={INNOCENTS}", f"--junitxml={tmp_path / 'junit.xml'}",
        f"--elastic-artifacts={tmp_path / 'artifacts'}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(INNOCENTS / f"{theme}.py")],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    cases = list(xml.parse(tmp_path / "junit.xml").iter("testcase"))
    assert cases, said
    assert [case.get("name") for case in cases if len(case)] == [], said
    assert [word for word in ACCUSING if word in said] == [], said
    assert not (tmp_path / "artifacts").exists(), said
    assert [one.get("name") for case in cases for one in case.iter("property")] == [], said
    assert done.returncode == 0, said
