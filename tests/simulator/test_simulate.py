"""One execution by its token, and the same one again."""

from __future__ import annotations

import pytest

from pytest_elastic.faults import kill
from pytest_elastic.simulator import (
    HangUntilTimeout,
    Schedule,
    Setting,
    TokenError,
    replay,
    schedule_of,
    simulate,
)
from simulator.programs import count_by_hand, exchange


def test_the_schedule_in_each_form():
    """A token, what it stands for, and bare delays are the same."""
    runs = [
        simulate(count_by_hand, "E1.3.l.1-1"),
        simulate(count_by_hand, Schedule(Setting(3), ((1, 1),))),
        simulate(count_by_hand, [(1, 1)], ranks=3),
    ]
    assert runs[0].steps == runs[1].steps == runs[2].steps
    assert all(isinstance(run.verdict, HangUntilTimeout) for run in runs)


def test_what_is_given_counts_more_than_what_the_schedule_says():
    """Ranks and wake rule in place of the schedule's, faults besides its."""
    execution = simulate(exchange, "E1.3.l+K0@1", "K1@2", ranks=2, wake="level", may_timeout=True)
    assert execution.setting == Setting(2, "level", kill(rank=0, op=1) | kill(rank=1, op=2), may_timeout=True)
    assert list(execution.killed) == [0, 1]


def test_ranks_must_be_said():
    """Bare delays do not say how many ranks there are."""
    with pytest.raises(ValueError, match="ranks="):
        simulate(exchange)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": 0},
        {"ranks": 2, "wake": "edge"},
        {"ranks": 2, "expiries": -1},
        {"ranks": 1, "skew": (0, 0)},
        {"ranks": 1, "skew": (-1,)},
    ],
)
def test_impossible_settings(wrong):
    """They are refused before anything runs."""
    with pytest.raises(ValueError, match=r"must be|no clock"):
        Setting(**wrong)


def test_replay_raises_what_is_wrong(crew):
    """By hand or sealed, again and again."""
    token = str(schedule_of(simulate(count_by_hand, "E1.3.l.1-1")))
    for _ in range(3):
        with pytest.raises(HangUntilTimeout):
            replay(count_by_hand, token)
    with pytest.raises(HangUntilTimeout):
        replay(count_by_hand, "E1.3.l.1-1")


def test_replay_of_another_program():
    """A seal is for one program; without it the schedule runs with any."""
    token = str(schedule_of(simulate(count_by_hand, "E1.3.l.1-1")))
    with pytest.raises(TokenError, match="another program"):
        replay(exchange, token)
    assert replay(exchange, "E1.3.l.1-1").results == [0, 1, 2]


@pytest.mark.parametrize("function", [exchange, count_by_hand])
@pytest.mark.parametrize("token", ["E1.3.l", "E1.3.v.1-1", "E1.4.l.0-2.2-1+K1@2", "E1.3.l.2-1~x2"])
def test_both_crews_do_the_same(function, token, monkeypatch):
    """A token means the same to threads and to greenlets."""
    from pytest_elastic.simulator import _task, _world, compare

    runs = []
    for kind in (_task.ThreadCrew, _task.GreenletCrew):
        monkeypatch.setattr(_world, "make_crew", kind)
        runs.append(simulate(function, token))
    assert compare(*runs) is None
    assert runs[0].steps == runs[1].steps
    assert runs[0].results == runs[1].results
    assert repr(runs[0].verdict) == repr(runs[1].verdict)
