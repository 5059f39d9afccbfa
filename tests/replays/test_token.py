"""Recordings as tokens, and the order of a token forced: no process, random programs."""

from __future__ import annotations

import random
import re

import pytest
from gates import Recorder, Rig
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_elastic.errors import DivergenceError
from pytest_elastic.replays import Recording, mismatch
from pytest_elastic.replays._sparse import UnsuitedError
from pytest_elastic.replays._token import ScheduledInterceptor, order_of, parse_order
from pytest_elastic.scheduling import checksum
from pytest_elastic.store import OpenGate

KEYS = st.sampled_from(["a", "b", "c"])
OPERATIONS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("add"), st.just("n"), st.integers(1, 3)),
    st.tuples(st.just("compare_set"), KEYS, st.just(b""), st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("delete_key"), KEYS),
    st.tuples(st.just("append"), KEYS, st.just(b"3")),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("check"), st.lists(KEYS, min_size=1, max_size=2)),
    st.tuples(st.just("wait"), st.lists(KEYS, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("multi_get"), st.lists(KEYS, min_size=1, max_size=2, unique=True)),
    st.tuples(st.just("queue_push"), st.just("q"), st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("queue_pop"), st.just("q"), st.just(True)),
    st.tuples(st.just("num_keys")),
)
WAITS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("wait"), st.just(["a", "b", "c"])),
    st.tuples(st.just("multi_get"), st.just(["a", "b"])),
)
QUEUES = st.one_of(
    st.tuples(st.just("queue_push"), st.just("q"), st.sampled_from([b"1", b"2", b"3"])),
    st.tuples(st.just("queue_pop"), st.just("q"), st.just(True)),
)


def programs_of(operations):
    """Two to four ranks."""
    return st.lists(st.lists(operations, max_size=5), min_size=2, max_size=4).filter(any)


PROGRAMS = programs_of(OPERATIONS) | programs_of(WAITS) | programs_of(QUEUES)


class Ranks:
    """Straight-line programs, one operation after the other, whose arrival the dice decide."""

    def __init__(self, programs, dice):
        self.rig, self._programs, self._dice = Rig(), programs, dice
        self._asked = [0] * len(programs)

    def answers(self):
        return {rank: self.rig.answers.get(rank, []) for rank in range(len(self._programs))}

    def run(self, early=0.0):
        """Until nobody can go on; some waits time out before that."""
        while able := [rank for rank in range(len(self._programs)) if self._can(rank)]:
            if self._dice.random() < early and self.expire_one():
                continue
            rank = self._dice.choice(able)
            self._asked[rank] += 1
            self.rig.ask(rank, *self._programs[rank][self._asked[rank] - 1])

    def rest(self):
        """Those that have done everything say so."""
        for rank, program in enumerate(self._programs):
            if len(self.rig.answers.get(rank, [])) == len(program):
                self.rig.gate.rested(rank)

    def expire_one(self):
        """Let one that waits time out; whether there was one."""
        blocked = list(self.rig._blocked.values())
        if blocked:
            self.rig.expire(self._dice.choice(blocked))
        return bool(blocked)

    def _can(self, rank):
        done = len(self.rig.answers.get(rank, []))
        return done == self._asked[rank] < len(self._programs[rank])


def record(programs, seed, early):
    """A run in an order that the seed decides, until all waits have timed out."""
    ranks = Ranks(programs, random.Random(seed))
    stage = ranks.rig.use(Recorder(OpenGate()))
    ranks.run(early)
    while ranks.expire_one():
        ranks.run(early)
    return ranks.answers(), stage.recording({})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(
    [
        [("set", "c", b"1"), ("set", "b", b"1"), ("wait", ["c"])],
        [("wait", ["a", "b"]), ("wait", ["c"])],
        [("wait", ["c"]), ("wait", ["c"]), ("set", "a", b"1")],
    ],
    893,
    894,
    0.0,
)
@given(PROGRAMS, st.integers(0, 999), st.integers(0, 999), st.sampled_from([0.0, 0.2]))
def test_a_token_is_the_run(programs, seed, other, early):
    """From the token alone, whatever order requests come in: each rank sees what it saw when recorded."""
    answers, recording = record(programs, seed, early)
    try:
        order = order_of(recording)
    except UnsuitedError:  # Of a wait for several keys, one of them made by a `compare_set`.
        return
    token = str(order)
    assert parse_order(token) == order
    ranks = Ranks(programs, random.Random(other))
    again = ranks.rig.use(Recorder(ScheduledInterceptor(parse_order(token), OpenGate())))
    while again.following.done < again.following.steps:
        before = again.following.done
        ranks.run()
        ranks.rest()
        timing = [wait for wait in ranks.rig._blocked.values() if not wait.timeless]
        if timing:  # It has its deadline back, and the hang is seen.
            ranks.rig.expire(timing[0])
        again.tick(0.0)
        assert again.following.done > before
    again.following.check()
    assert ranks.answers() == answers
    assert str(order_of(again.recording({}))) == token


def history(*steps):
    """The recording of requests in this order, by rank."""
    rig = Rig()
    stage = rig.use(Recorder(OpenGate()))
    for rank, *what in steps:
        rig.ask(rank, *what)
    return stage.recording({})


def barrier(order):
    """Ranks arrive at a barrier in this order."""
    for position, rank in enumerate(order):
        yield rank, "arrive", "b/num_members", rank, len(order)
        if position == len(order) - 1:
            yield rank, "set", "b/last_member", b"1"
        yield rank, "wait", ["b/last_member"]


@pytest.mark.parametrize(
    ("steps", "delays"),
    [
        ([(0, "set", "a", b"1"), (0, "set", "b", b"1"), (1, "set", "c", b"1")], ()),
        ([(1, "set", "c", b"1"), (0, "set", "a", b"1"), (1, "get", "c"), (0, "set", "b", b"1")], ()),
        ([(1, "get", "x"), (0, "set", "a", b"1"), (0, "set", "x", b"1"), (1, "get", "a")], ((1, 1),)),
        (list(barrier([0, 1, 2])), ()),
        (list(barrier([1, 0, 2])), ()),
        (list(barrier([2, 1, 0])), ((0, 1),)),
    ],
)
def test_the_order_of_independent_operations_costs_no_delay(steps, delays):
    """What does not matter costs nothing."""
    assert order_of(history(*steps)).delays == delays


def test_a_token_has_counts_delays_faults_and_a_seal():
    """Counts, delays, faults, seal."""
    recording = history((1, "get", "x"), (0, "set", "x", b"1"), (1, "get", "x"))
    order = order_of(Recording(recording.events, {"faults": "K1@3"}))
    token = str(order)
    assert token.startswith("R1.1-2.0-1+K1@3.p")
    assert parse_order(token) == order


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("R2.1-2.p00000000", "no token of this version"),
        ("R1.1-2.0-1", "no token of this version"),
        ("R1.1-2.0-1.p00000000", "damaged"),
        ("R1.1-2.0-1+Z9.p{}0000", "no good faults"),
    ],
)
def test_a_bad_token_is_one_error(token, problem):
    """One error."""
    token = token.format(f"{checksum(token.partition('.p')[0]):04x}")
    with pytest.raises(ValueError, match=problem):
        parse_order(token)


def test_a_token_says_its_test_and_size():
    """In few characters; where that is not known, it is good for any."""
    steps = ((0, "set", "a", b"1"), (1, "get", "a"))
    recording = Recording(history(*steps).events, {"test": "tests/test_x.py::T::test_y[a-b]", "nprocs": 2})
    token = str(order_of(recording))
    assert re.fullmatch(r"R1\.1-1\.t[0-9a-f]{4}x2\.p[0-9a-f]{8}", token)
    for one in (recording, parse_order(token)):
        assert mismatch(one, "x/tests/test_x.py::T::test_y[c/d]", 2) == ""
        assert mismatch(one, "tests/test_x.py::T::test_z", 2).startswith("it is of another test than")
        assert mismatch(one, "tests/test_x.py::T::test_y", 4) == "it is of a run on 2 ranks, and here are 4"
    for one in (history(*steps), order_of(history(*steps))):
        assert mismatch(one, "any", 9) == ""


def test_some_recordings_have_no_token():
    """The launcher's part cannot be forced by a rank's schedule."""
    with pytest.raises(UnsuitedError, match="the launcher took part"):
        order_of(history(("launcher", "set", "a", b"1")))
    with pytest.raises(UnsuitedError, match="0 steps"):
        order_of(history())


def test_connections_of_a_rank_have_counts_of_their_own():
    """Each connection is a party of its own."""
    rig = Rig()
    stage = rig.use(Recorder(OpenGate()))
    rig.ask(0, "set", "a", b"1")
    rig.ask(0, "set", "a", b"2", client=1)
    rig.ask(2, "get", "a")
    order = order_of(stage.recording({}))
    assert str(order).startswith("R1.1_1-0-1.p")
    assert parse_order(str(order)).counts == {(0, 0): 1, (0, 1): 1, (2, 0): 1}


def test_another_program_is_known_at_the_end(rig):
    """Is known at the end, by its fingerprint."""
    order = order_of(history((0, "set", "a", b"1"), (1, "get", "a")))
    stage = rig.use(ScheduledInterceptor(order, OpenGate()))
    rig.ask(1, "get", "b")
    rig.ask(0, "set", "b", b"1")
    assert stage.progress() == (
        "replayed 2 of 2 steps in their order, but of another program than the token's"
    )
    with pytest.raises(DivergenceError, match="made for a program that did other operations"):
        stage.check()


def test_nobody_is_held_for_ever(rig, clock):
    """Nobody is held for ever."""
    stage = rig.use(
        ScheduledInterceptor(order_of(history((0, "set", "a", b"1"), (1, "get", "a"))), OpenGate(), 3.0)
    )
    rig.ask(1, "get", "a")
    stage.tick(clock(4))
    (text,) = rig.of(1)
    assert text.splitlines()[1:] == ["  expected rank 0 to do something", "  did not come for 4.0 s"]


def test_nobody_is_held_for_a_rank_that_has_ended(rig):
    """Nor for one that is gone."""
    stage = rig.use(
        ScheduledInterceptor(order_of(history((0, "set", "a", b"1"), (1, "get", "a"))), OpenGate())
    )
    rig.ask(1, "get", "a")
    stage.left(0)
    assert rig.of(1)[0].endswith("rank 0 has ended")
