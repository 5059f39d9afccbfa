"""N ends, one verdict: histories as data."""

from __future__ import annotations

import math

import pytest

from pytest_elastic.hang import Frame, Stack
from pytest_elastic.report import (
    FORCED_TOGETHER,
    PhaseReport,
    RankEnd,
    fair_limit,
    judge,
    shorten,
    stack_text,
)

HERE = [Stack((Frame("t.py", 9, "test_it"),), True)]


def reported(rank, kind="passed", at=0.0, crash="", place="t.py:1", error_type="ValueError", **more):
    turn = more.pop("turn", -1)
    report = PhaseReport(rank, "call", kind, at, 0.0, {}, crash, place, error_type=error_type, **more)
    return RankEnd(rank, kind, at, report=report, turn=turn)


def test_a_pass_is_n_passes():
    """Rule 1."""
    assert judge([reported(0), reported(1)], 2).kind == "passed"


def test_first_failure_in_time_is_the_cause():
    """Rule 2: order of arrival, not of rank."""
    verdict = judge([reported(0, "failed", 2.0, "late"), reported(1, "failed", 1.0, "early", "t.py:2")], 2)
    assert (verdict.kind, verdict.primary.rank) == ("failed", 1)
    assert verdict.headline == "2 of 2 ranks failed: rank 1 first"
    assert verdict.sections == [("rank 0 failed too", "late")]


def test_followers_never_lead():
    """Rule 2: an error about an absent peer is no cause while there is another, however late that comes."""
    ends = [reported(0, "failed", 1.0, "gone", "a.py:1", follows="peer"), reported(1, "failed", 9.0, "boom")]
    assert judge(ends, 2).primary.rank == 1
    assert judge(ends[:1], 2).primary.rank == 0


def test_a_name_makes_no_follower():
    """A truncated checkpoint is a cause."""
    ends = [
        reported(0, "failed", 1.0, "boom"),
        reported(1, "failed", 0.5, "EOFError: Ran out of input", "a.py:1", "EOFError"),
    ]
    assert judge(ends, 2).primary.rank == 1


@pytest.mark.parametrize(
    ("other", "primary"),
    [
        (reported(1, "failed", 1.005, "boom"), 1),
        (reported(1, "failed", 1.1, "boom"), 0),
        (RankEnd(1, "died", 1.3, "was killed by SIGKILL"), 1),
        (RankEnd(1, "died", 3.0, "was killed by SIGKILL"), 0),
        (reported(1, "failed", 0.5, "lost too", "b.py:1", follows="peer"), 0),
    ],
    ids=["it raised just before", "later", "its death is seen late", "it died later", "it follows itself"],
)
def test_a_lost_connection_follows_if_a_peer_had_ended(other, primary):
    """Rule 2: when in doubt the earlier one leads."""
    lost = reported(0, "failed", 1.0, "reset", "a.py:1", "ConnectionResetError", follows="connection")
    assert judge([lost, other], 2).primary.rank == primary


def test_of_followers_the_one_that_names_ranks_is_shown():
    """Rule 2: though it comes later; the placeholder of the others names nobody."""
    said = "Timed out waiting on barrier (missing_ranks={})"
    where = {"place": "a.py:1", "error_type": "DistStoreError", "follows": "peer"}
    ends = [
        reported(0, "failed", 2.0, said.format("[3]"), **where),
        reported(1, "failed", 1.0, said.format("[[<check rank 0 (0) for missing rank info>]]"), **where),
    ]
    verdict = judge(ends, 4)
    assert (verdict.primary.rank, verdict.headline) == (0, "2 of 4 ranks failed: ranks 0-1 alike")


def test_of_followers_the_one_whose_collective_lacked_ranks_is_shown():
    """Rule 2: a lost connection names nobody."""
    where = {"place": "a.py:1", "follows": "peer"}
    ends = [
        reported(0, "failed", 1.0, "Connection closed by peer", **where),
        reported(1, "failed", 2.0, "call #2 of group world: ranks 0, 2 did not come", **where),
    ]
    assert judge(ends, 3).primary.rank == 1


def test_followers_fold_though_ports_and_spans_differ():
    """What libraries say of a peer."""
    said = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:{}. Timed out after {}ms"
    ends = [
        reported(rank, "failed", rank, said.format(9000 + rank, 10 * rank), follows="peer") for rank in (1, 2)
    ]
    ends.append(RankEnd(0, "died", 0.5, "was killed by SIGKILL"))
    verdict = judge(ends, 3)
    assert verdict.headline == "rank 0 was killed by SIGKILL (3 of 3 ranks failed)"
    assert [title for title, _ in verdict.sections] == ["ranks 1-2 failed too"]


def test_what_came_together_is_in_the_order_of_the_store():
    """Rule 3: else of the ranks; a death leads; a clear lead in time stays one."""
    ends = [reported(rank, "failed", 1.0 - rank / 1000, f"boom {rank}", turn=-rank % 3) for rank in range(3)]
    assert judge(ends, 3).primary.rank == 0
    ends[0].turn = 9
    assert judge(ends, 3).primary.rank == 2
    died = RankEnd(1, "died", 1.01, "was killed by SIGSEGV")
    assert judge([ends[0], died, ends[2]], 3).primary.rank == 1
    ends[1].at = 0.95
    assert judge(ends, 3).primary.rank == 1
    assert judge(ends, 3, together=FORCED_TOGETHER).primary.rank == 2


def test_a_failure_whose_report_did_not_come():
    """It stands where it failed, and says what is known."""
    late = RankEnd(
        1, "failed", 1.0, "failed (ValueError at a.py:7) and did not say more in time", stacks=HERE
    )
    verdict = judge([reported(0, "failed", 2.0, "boom"), late], 2)
    assert verdict.headline == (
        "rank 1 failed (ValueError at a.py:7) and did not say more in time (2 of 2 ranks failed)"
    )
    assert verdict.sections[-1] == ("rank 1 failed, and stood here then", "  t.py:9 in test_it")


def test_a_death_is_ordered_by_its_time():
    """A rank that died first is the cause of the error that came after it."""
    died = RankEnd(1, "died", 1.0, "was killed by SIGKILL without a report")
    verdict = judge([reported(0, "failed", 1.5, "boom"), died], 2)
    assert verdict.headline == "rank 1 was killed by SIGKILL without a report (2 of 2 ranks failed)"


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


def test_equal_shapes_fold_and_their_values_are_a_table():
    """A failure of one place is one, whatever its numbers and names."""
    said = ["x is 0 for 'a' (rank 0)", "x is 0 for 'a' (rank 1)", "x is 5 for 'b' (rank 2)"]
    verdict = judge([reported(rank, "failed", rank, text) for rank, text in enumerate(said)], 3)
    assert verdict.headline == "3 of 3 ranks failed: ranks 0-2 alike"
    assert verdict.sections == [
        ("ranks 0-2 differ here", "x is {a} for {b} (rank {rank}); by rank:\n  0-1: 0, 'a'  2: 5, 'b'")
    ]
    assert verdict.summary == "rank 0: x is 0 for 'a' (rank 0) (ranks 1-2 alike)"


def test_the_number_of_a_rank_is_no_value():
    """It needs no table."""
    verdict = judge([reported(rank, "failed", rank, f"assert {rank} == 7\nmore") for rank in range(2)], 2)
    assert verdict.sections == [("ranks 0-1 differ here", "assert {rank} == 7")]


def test_other_shapes_on_the_same_line_are_one_section():
    """A line each; followers and failures of other lines have sections of their own."""
    ends = [
        reported(0, "failed", 0.0, "no data"),
        reported(1, "failed", 1.0, "no disk: 3\nmore"),
        reported(2, "failed", 2.0, "no disk: 4"),
        reported(3, "failed", 3.0, "no data", "t.py:2"),
        reported(4, "failed", 4.0, "no name"),
        reported(5, "failed", 5.0, "no data", error_type="OSError"),
    ]
    assert judge(ends, 6).sections == [
        (
            "ranks 1-2, 4-5 failed too, on the same line",
            "ranks 1-2: no disk: {a}; by rank:\n  1: 3  2: 4\nrank 4: no name\nrank 5: no data",
        ),
        ("rank 3 failed too", "no data"),
    ]


def test_a_failure_without_a_report_folds_with_those_that_have_one():
    """What a rank told ahead is enough; the one with a report is shown."""
    early = RankEnd(0, "failed", 0.0, "failed (ValueError at t.py:1)", stacks=HERE)
    early.place, early.error_type, early.crash = "t.py:1", "ValueError", "boom 5"
    verdict = judge([early, reported(1, "failed", 0.1, "boom 6")], 2)
    assert (verdict.primary.rank, verdict.headline) == (1, "2 of 2 ranks failed: ranks 0-1 alike")
    assert verdict.sections == [("ranks 0-1 differ here", "boom {a}; by rank:\n  0: 5  1: 6")]


def test_long_sections_are_cut_and_the_last_line_names_the_rest():
    """What fits stays as it is."""
    sections = [("first", "1\n2\n3"), ("second", "4\n5"), ("third", "6")]
    assert shorten(sections, 9, "x.txt") == sections
    assert shorten(sections, 7, "x.txt") == [("first", "1\n2\n3"), ("second", "4\n(2 more lines: x.txt)")]
    assert shorten(sections, 4, "x.txt") == [("first", "1\n2\n(4 more lines: x.txt)")]


def test_lines_are_shared_fairly():
    """What a short text does not need is for the long ones."""
    assert fair_limit([2, 100, 100], 42, 5) == 20
    assert fair_limit([2, 3], 42, 5) == 3
    assert fair_limit([100] * 20, 40, 5) == 5


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


def test_the_summary_names_ranks_and_no_private_module():
    """The cause for lists: what the exception says, whose it is, and nothing of where its class lives."""
    ends = [
        reported(rank, "failed", rank, "pytest_elastic.multiprocessing.errors._failure.ChildFailedError: no")
        for rank in range(2)
    ]
    assert judge(ends, 3).summary == "ranks 0-1: ChildFailedError: no"
    assert judge([reported(1, "failed", crash="torch._C._Error")], 2).summary == "rank 1: _Error"
    assert judge([reported(1, "failed", crash="my.app.Error: _x.y: z")], 2).summary == (
        "rank 1: my.app.Error: _x.y: z"
    )
    assert judge([reported(0, "failed", crash="boom")], 1).summary == "boom"
    died = RankEnd(1, "died", 1.0, "was killed by SIGKILL")
    assert judge([died], 2).summary == "rank 1 was killed by SIGKILL"
