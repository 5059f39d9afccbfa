"""Our part of a failure has pytest's colours, where pytest has colours."""

from __future__ import annotations

import re

import pytest

CODE = """
    import os
    import pytest

    @pytest.mark.elastic(nprocs=3)
    def test_hangs(world):
        if world.rank == 2:
            return
        world.barrier("saved")

    @pytest.mark.elastic(nprocs=2)
    def test_is_told_without_a_traceback(world):
        pytest.fail("no data", pytrace=False)

    def load(rank, world_size):
        raise ValueError("no file")

    def test_function(elastic):
        elastic.run(load, nprocs=1)
    """
RED = [
    "2 of 3 ranks failed: ranks 0-1 alike",
    "HANG  2 of 3 ranks can never go on",
    "  cause: rank 2 passed",
    "2 of 2 ranks failed: ranks 0-1 alike",
    "run by test_",
]


@pytest.mark.parametrize("more", ["", "--tb=short", "--tb=native", "-p xdist -n 1"])
def test_headline_verdict_and_cause_are_red(run, pytester, more):
    """Those lines of ours only, whichever process has run the test; files have none."""
    if "xdist" in more:
        pytest.importorskip("xdist")
    result = run(CODE, "--color=yes", "--junitxml=report.xml", *more.split())
    result.assert_outcomes(failed=3)
    red = [re.sub(r"\x1b\[\d+m", "", line) for line in result.outlines if line.startswith("\x1b[31m\x1b[1m")]
    # A native traceback is one text to pytest, the headline too.
    expected = [line for line in RED if "native" not in more or not line.endswith(("alike", "test_"))]
    assert [line for line in expected if not any(one.startswith(line) for one in red)] == []
    assert any(line.startswith('  barrier "saved": arrived') for line in result.outlines)
    xml = (pytester.path / "report.xml").read_text()
    assert "HANG  2 of 3" in xml
    assert "x1B" not in xml


def test_a_file_gets_no_colours(run):
    """Nor does a pipe."""
    assert "\x1b" not in run(CODE).stdout.str()
