"""The table of docs/hooks.md is what happens."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"


def rows_of(page: str) -> dict[str, set[str]]:
    """For each hook of the table, where it says that it is called."""
    found = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall("`(pytest_[a-z_]+)`", cells[0]) if len(cells) == 5 else ():
            places = zip(("plain", "pytest", "rank"), cells[1:4], strict=True)
            assert set(cells[1:4]) <= {"yes", ""}
            found[name] = {place for place, said in places if said == "yes"}
    return found


def test_hooks_are_called_where_the_page_says(run, pytester):
    """Every hook of pytest that a run calls, in a test on a rank and in the same test without."""
    run(
        """
        import warnings
        import pytest

        @pytest.fixture
        def value(): return 1

        def body(value):
            warnings.warn("is recorded")
            assert value == 2

        def test_plain(value): body(value)

        @pytest.mark.elastic(nprocs=1)
        def test_pytest(value): body(value)
        """,
        conftest="""
        import os
        import pytest
        from pathlib import Path
        from _pytest import hookspec

        called, current = Path(__file__).with_name("called.txt"), "plain"

        def note(name):
            with called.open("a") as file:
                file.write(f"{name} {'rank' if 'RANK' in os.environ else current}\\n")

        def noting(name): return lambda: note(name)

        for name in dir(hookspec):
            if name.startswith("pytest_"):
                globals()[name] = noting(name)

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_protocol(item):
            global current
            current = item.name.removeprefix("test_")
            note("pytest_runtest_protocol")
            try:
                return (yield)
            finally:
                current = "plain"
        """,
    ).assert_outcomes(failed=2, warnings=2)
    found: dict[str, set[str]] = {}
    for line in (pytester.path / "called.txt").read_text().splitlines():
        name, place = line.split()
        found.setdefault(name, set()).add(place)
    assert found == rows_of(PAGE.read_text())
