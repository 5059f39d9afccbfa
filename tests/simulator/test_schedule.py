"""Tokens: what they say, and what is wrong with those that say nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_elastic.faults import FaultPlan, delay, kill
from pytest_elastic.simulator import Schedule, Setting, TokenError, parse_token, schedule_of, simulate
from pytest_elastic.simulator._schedule import fingerprint
from simulator.programs import count_by_hand, exchange

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUMBERS = st.integers(0, 1000)
SETTINGS = st.builds(
    Setting,
    st.integers(2, 20),
    st.sampled_from(["latched", "level"]),
    st.sampled_from(
        [FaultPlan(), kill(rank=1, op=4), kill(rank=0, key="a.b~c-d") | delay(rank=1, by=0.25, op=2)]
    ),
    NUMBERS,
    st.sampled_from([(), (0.5,), (0.0, -0.25)]),
)
SCHEDULES = st.builds(
    Schedule,
    SETTINGS,
    st.lists(st.tuples(NUMBERS, st.integers(1, 9))).map(tuple),
    st.none() | st.integers(0, 0xFFFF),
)


@given(SCHEDULES)
@patient
def test_a_token_says_all(schedule):
    """Text and back is the same schedule."""
    assert parse_token(str(schedule)) == schedule


@given(SCHEDULES.filter(lambda schedule: schedule.program is not None), st.data())
@patient
def test_a_damaged_token_is_no_token(schedule, data):
    """One character that changed is noticed, wherever it is."""
    token = str(schedule)
    place = data.draw(st.integers(0, len(token) - 5))  # The last four are the program's.
    other = data.draw(st.sampled_from("0123456789.-~,abxyzlvp").filter(lambda text: text != token[place]))
    with pytest.raises(TokenError):
        parse_token(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    ("token", "schedule"),
    [
        ("E1.3.l", Schedule(Setting(3))),
        ("E1.3.l.1-1", Schedule(Setting(3), ((1, 1),))),
        ("E1.3x2.v.1-1", Schedule(Setting(3, "level", rounds=2), ((1, 1),))),
        (
            "E1.2.v.0-2.10-1+K1@4~x2s0,100000",
            Schedule(Setting(2, "level", kill(rank=1, op=4), 2, (0.0, 0.1)), ((0, 2), (10, 1))),
        ),
        ("E1.2.l~s-1", Schedule(Setting(2, skew=(-1e-6,)))),
    ],
)
def test_tokens_written_by_hand(token, schedule):
    """The grammar, by examples; without a seal they are as good."""
    assert parse_token(token) == schedule
    assert str(schedule) == token


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "is no token"),
        ("1.3.l", "is no token"),
        ("E2.3.l", "has version E2, this is E1"),
        ("E1.3.q", "has the wake rule 'q'"),
        ("E1.3", "is damaged at character 5"),
        ("E1.3.l.1-", "is damaged at character 7"),
        ("E1.3.l.1-1 ", "is damaged at character 11"),
        ("E1.3.l~x", "is damaged at character 8"),
        ("E1.3x.l", "is damaged at character 5"),
        ("E1.3x0.l", "out of range: rounds must be at least 1, not 0"),
        ("E1.3.l.1-1.p00000000", "checksum"),
        ("E1.0.l", "out of range: ranks must be at least 1"),
        ("E1.3.l.1-0", "out of range: a shift of 0"),
        ("E1.3.l.9999999-1", "out of range: 9999999 is more than 1000000"),
        ("E1.99999999999999999999.l", "out of range"),
        ("E1.2.l~s0,0,0", "out of range: no clock"),
        ("E1.2.l+K2@1", "has no good faults: .*rank 2"),
        ("E1.2.l+Q", "has no good faults"),
    ],
)
def test_what_is_no_token(token, why):
    """One error, which says what is wrong."""
    with pytest.raises(TokenError, match=why) as info:
        parse_token(token)
    assert info.value.token == token


def test_the_fingerprint_is_the_program():
    """Other operations are another program; other values are not."""

    def like_exchange(rank, world_size, store):
        return exchange(rank, world_size, store)

    prints = [
        fingerprint(simulate(function, ranks=2).steps)
        for function in (exchange, like_exchange, count_by_hand)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_the_schedule_of_an_execution():
    """Its token is sealed, and stands for the whole setting."""
    execution = simulate(count_by_hand, "E1.3.v.1-1")
    schedule = schedule_of(execution)
    assert schedule == parse_token(str(schedule))
    assert (schedule.setting, schedule.delays) == (Setting(3, "level"), ((1, 1),))
    assert schedule.program == fingerprint(execution.steps)
