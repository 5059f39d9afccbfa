"""Correct programs, about as many as there are ways to be late, are accused of nothing.

Each file of `innocents` is a theme, each test in it a program as users write it; one run of pytest per theme.  The
programs wait most of the time, so some themes run side by side.
"""

from __future__ import annotations

import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreters import Template
from shared_run import done_once

INNOCENTS = Path(__file__).parent / "innocents"
LONGEST = ["torch_groups", "helper_threads", "late_ranks", "child_processes"]
THEMES = sorted(
    (path.stem for path in INNOCENTS.glob("*.py")),
    key=lambda theme: (theme not in LONGEST, theme),
)
SIDE_BY_SIDE = 3
ACCUSING = ("HANG", "can never go on", "suspected", "who waits for whom", "left a process behind", "warning")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, template: Template, template_with_libraries: Template
) -> Path:
    """For each theme a directory with `output`, `code`, `junit.xml` and, where there are any, `artifacts`."""

    def run(directory: Path, theme: str) -> None:
        directory.mkdir()
        arguments = [
            "-q", "-rA", "--capture=fd", "-p", "no:cacheprovider", "-o", "python_files=*.py", "-o", "elastic_leaks=fail",
            f"--confcutdir={INNOCENTS}", f"--junitxml={directory / 'junit.xml'}",
            f"--elastic-artifacts={directory / 'artifacts'}", f"--basetemp={directory / 'temp'}",
            str(INNOCENTS / f"{theme}.py"),
        ]  # fmt: skip
        of = template_with_libraries if theme.startswith("torch_") else template
        code = of.run_to_end(arguments, INNOCENTS, directory / "output", 280)
        (directory / "code").write_text(str(code))

    def run_all(directory: Path) -> None:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(lambda theme: run(directory / theme, theme), THEMES))

    return done_once(tmp_path_factory, "innocents", run_all)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", THEMES)
def test_nobody_is_accused(theme: str, runs: Path) -> None:
    """All pass; there is no word of a hang, of a leak or of a warning, and no file about any."""
    if theme.startswith("torch_") and find_spec("torch") is None:
        pytest.skip("torch is not installed")
    directory = runs / theme
    said = (directory / "output").read_text()
    cases = list(xml.parse(directory / "junit.xml").iter("testcase"))
    assert cases, said
    assert [case.get("name") for case in cases if len(case)] == [], said
    assert [word for word in ACCUSING if word in said] == [], said
    assert not (directory / "artifacts").exists(), said
    assert [one.get("name") for case in cases for one in case.iter("property")] == [], said
    assert (directory / "code").read_text() == "0", said
