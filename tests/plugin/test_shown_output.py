"""Where output and logs of ranks are shown, with the rank beside them."""

from __future__ import annotations

import pytest

CODE = """
    import logging
    import pytest

    @pytest.mark.elastic(nprocs=2)
    def test_passes(rank):
        print("hello from", rank)
        logging.warning("one of %d\\nanother of %d", rank, rank)
    """


@pytest.mark.parametrize("option", ["-rP", "-rA", "-q", "--elastic-log=none -rP"])
def test_output_of_a_pass_is_shown_where_pytest_shows_it(run, option):
    """As that of a plain test."""
    result = run(CODE, *option.split())
    result.assert_outcomes(passed=1)
    shown = [line.strip("- ") for line in result.outlines if line.startswith("----") and "rank" in line]
    streams = [f"Captured {stream} [rank {rank}] call" for rank in range(2) for stream in ("stdout", "log")]
    assert sorted(shown) == (sorted(streams) if option in ("-rP", "-rA") else [])
    assert ("hello from 1" in result.outlines) is bool(shown)


def test_the_log_file_says_which_rank_has_logged(run, pytester):
    """On each line of a record."""
    run(CODE, "--log-file=log.txt", "--log-file-format=%(message)s").assert_outcomes(passed=1)
    lines = (pytester.path / "log.txt").read_text().splitlines()
    assert sorted(line for line in lines if " of " in line) == [
        "[rank0]:another of 0",
        "[rank0]:one of 0",
        "[rank1]:another of 1",
        "[rank1]:one of 1",
    ]


@pytest.mark.parametrize("more", ["", "--elastic-start-method=spawn", "-s"])
def test_live_logs_are_shown_with_their_rank(run, more):
    """Once, whatever is captured; what is printed is not."""
    result = run(CODE, "-o", "log_cli=true", "--log-cli-format=%(message)s", *more.split())
    result.assert_outcomes(passed=1)
    for rank in range(2):
        for line in (f"[rank{rank}]:one of {rank}", f"[rank{rank}]:another of {rank}"):
            assert sum(shown.endswith(line) for shown in result.outlines) == 1
        assert (f"hello from {rank}" in result.stdout.str()) is (more == "-s")
