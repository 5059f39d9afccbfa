"""N ends, one verdict: histories as data."""

from __future__ import annotations

import math

import pytest

from pytest_elastic.hang import Frame, Stack
from pytest_elastic.report import PhaseReport, RankEnd, judge, stack_text

HERE = [Stack((Frame("t.py", 9, "test_it"),), True)]


def reported(rank, kind="passed", at=0.0, crash="", place="t.py:1", error_type="ValueError"):
    report = PhaseReport(rank, "call", kind, at, 0.0, {}, crash, place, error_type=error_type)
    return RankEnd(rank, kind, at, report=report)


def test_a_pass_is_n_passes():
    """Rule 1."""
    assert judge([reported(0), reported(1)], 2).kind == "passed"


def test_first_failure_in_time_is_the_cause():
    """Rule 2: order of arrival, not of rank."""
    verdict = judge([reported(0, "failed", 2.0, "late"), reported(1, "failed", 1.0, "early", "t.py:2")], 2)
    assert (verdict.kind, verdict.primary.rank) == ("failed", 1)
    assert verdict.headline == "2 of 2 ranks failed: rank 1 first"
    assert verdict.sections == [("rank 0 failed too", "late")]


@pytest.mark.parametrize("follower", ["DistStoreError", "ConnectionResetError", "BrokenPipeError"])
def test_followers_never_lead(follower):
    """Rule 2: an error about an absent peer is no cause while there is another."""
    ends = [reported(0, "failed", 1.0, "gone", "a.py:1", follower), reported(1, "failed", 2.0, "boom")]
    assert judge(ends, 2).primary.rank == 1
    assert judge(ends[:1], 2).primary.rank == 0


def test_a_lost_connection_in_words():
    """Libraries say it in a RuntimeError."""
    lost = reported(0, "failed", 1.0, "Connection closed by peer [127.0.0.1]", "a.py:1", "RuntimeError")
    assert judge([lost, reported(1, "failed", 2.0, "boom")], 2).primary.rank == 1


def test_a_death_is_ordered_by_its_time():
    """A rank that died first is the cause of the error that came after it."""
    died = RankEnd(1, "died", 1.0, "died by SIGKILL without a report")
    verdict = judge([reported(0, "failed", 1.5, "boom"), died], 2)
    assert verdict.headline == "rank 1 died by SIGKILL without a report (2 of 2 ranks failed)"


def test_hung_comes_last_and_shows_stacks():
    """Silence at the deadline is a failure, but not the cause of an error."""
    hung = RankEnd(0, "hung", math.inf, "did not finish within 1 s", stacks=HERE)
    verdict = judge([hung, reported(1, "failed", 1.0, "boom")], 2)
    assert verdict.primary.rank == 1
    assert verdict.sections[-1] == ("rank 0 hung here", "  t.py:9 in test_it")


def test_stopped_ranks_are_no_failures():
    """Rule 3."""
    ends = [
        reported(1, "failed", 1.0, "boom"),
        *(RankEnd(r, "stopped", math.inf, stacks=HERE) for r in (0, 2)),
    ]
    verdict = judge(sorted(ends, key=lambda end: end.rank), 3)
    assert verdict.headline == "1 of 3 ranks failed: rank 1 alone; ranks 0, 2 were stopped"
    assert verdict.sections == [("ranks 0, 2 stood here when stopped", "  t.py:9 in test_it")]


def test_equal_failures_fold():
    """One failure for all who say the same."""
    verdict = judge([reported(rank, "failed", rank, "boom") for rank in range(3)], 3)
    assert verdict.headline == "3 of 3 ranks failed: ranks 0-2 alike"
    assert verdict.sections == []


def test_same_line_other_values():
    """The same place with other values is one short section each."""
    verdict = judge([reported(rank, "failed", rank, f"assert {rank} == 7") for rank in range(2)], 2)
    assert verdict.sections == [("rank 1 failed too, on the same line", "assert 1 == 7")]


@pytest.mark.parametrize(("policy", "kind"), [("fail", "partial"), ("skip", "skipped"), ("pass", "passed")])
def test_partial_skip(policy, kind):
    """Rule 4."""
    verdict = judge([reported(0), reported(1, "skipped", crash="why")], 2, policy)
    assert verdict.kind == kind
    if policy != "skip":
        assert verdict.sections == [("skipped on some ranks", "rank 1: why")]


def test_unanimous_skip():
    """Rule 4, the good case."""
    assert judge([reported(0, "skipped"), reported(1, "skipped")], 2).kind == "skipped"


def test_a_failure_beats_a_skip_and_an_exit_beats_both():
    """Rule 1's order."""
    ends = [reported(0, "skipped"), reported(1, "failed", crash="boom")]
    assert judge(ends, 3).kind == "failed"
    assert judge([*ends, reported(2, "exit")], 3).kind == "exit"


def test_one_rank_needs_no_headline():
    """A world of one reads like an ordinary test."""
    assert judge([reported(0, "failed", crash="boom")], 1).headline == ""


def test_stack_text_of_nothing():
    """A rank that could not write its stack says so."""
    assert stack_text([]) == "  (no Python stack could be had)"
