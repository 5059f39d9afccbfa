"""One execution by its token, and the same one again."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_elastic.faults import kill
from pytest_elastic.simulator import (
    HangUntilTimeout,
    RankFailed,
    Schedule,
    Setting,
    TokenError,
    _crew,
    _simulation,
    compare,
    replay,
    schedule_of,
    simulate,
)
from simulator.programs import count_by_hand, end_alone, exchange


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
    runs = []
    for kind in (_crew.ThreadCrew, _crew.GreenletCrew):
        monkeypatch.setattr(_simulation, "make_crew", kind)
        runs.append(simulate(function, token))
    assert compare(*runs) is None
    assert runs[0].steps == runs[1].steps
    assert runs[0].results == runs[1].results
    assert repr(runs[0].verdict) == repr(runs[1].verdict)


def test_a_verdict_says_how_to_run_it_again():
    """Its note is a line of code that does."""
    execution = simulate(end_alone, "E1.2.l", may_timeout=True)
    (note,) = execution.verdict.__notes__
    recipe = note.removeprefix("to run it again: ")
    assert recipe == f"replay(end_alone, {str(schedule_of(execution))!r}, may_timeout=True)"
    with pytest.raises(RankFailed):
        eval(recipe)


KEYS = st.sampled_from(["a", "b"])
OPERATIONS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.just("1")),
    st.tuples(st.just("add"), st.sampled_from(["n", "m"]), st.just(1)),
    st.tuples(st.just("delete_key"), KEYS),
    st.tuples(st.just("check"), KEYS.map(lambda key: [key])),
    st.tuples(st.just("wait"), st.lists(KEYS, min_size=1, max_size=2), st.sampled_from([1.0, 2.0])),
    st.tuples(st.just("queue_push"), st.just("q"), st.just("1")),
    st.tuples(st.just("queue_pop"), st.just("q")),
    st.tuples(st.just("sleep"), st.sampled_from([0, 1, 2])),
)
PROGRAMS = st.lists(st.lists(OPERATIONS, max_size=4), min_size=2, max_size=3)
DELAYS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=3).map(tuple)


@given(PROGRAMS, DELAYS, st.sampled_from(["latched", "level"]), st.integers(0, 2), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_program_does_the_same_again(program, delays, wake, expiries, may_timeout):
    """On both crews, and by the delays that an execution had."""

    def work(rank, world_size, store):
        for name, *arguments in program[rank]:
            if name == "sleep":
                time.sleep(*arguments)
            else:
                getattr(store, name)(*arguments)

    setting = Setting(len(program), wake, expiries=expiries, may_timeout=may_timeout)
    once = simulate(work, Schedule(setting, delays), may_timeout=may_timeout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_simulation, "make_crew", _crew.ThreadCrew)
        again = simulate(work, Schedule(setting, once.delays), may_timeout=may_timeout)
    assert compare(once, again) is None
    assert (once.steps, once.now, once.blocked) == (again.steps, again.now, again.blocked)
    assert repr(once.verdict) == repr(again.verdict)
    assert again.delays == once.delays
