"""Verdicts: all kinds, their fields, and what tells them apart."""

from __future__ import annotations

import itertools
import math
import pickle
import sys
import time
import traceback

import pytest

from pytest_elastic.faults import kill, stop
from pytest_elastic.simulator import (
    Blocked,
    Deadlock,
    HangUntilTimeout,
    Livelock,
    Nondeterminism,
    RankFailed,
    Setting,
    Simulation,
    SparseScheduler,
    Step,
    TimerExpired,
    UncontrolledBlocking,
    Verdict,
    compare,
    simulate,
)
from pytest_elastic.simulator._failures import place_of
from pytest_elastic.timer import expires
from simulator.programs import end_alone

WAIT = Blocked(Step(1, "call", "wait", (("k",),)), ("k",), math.inf, "a.py:3")
ADD = Step(0, "call", "add", ("n", 1))
VERDICTS = [
    RankFailed(1, ValueError("text"), (WAIT,)),
    TimerExpired(1, "scope", ()),
    Deadlock((WAIT,), ("rank 0 has returned",)),
    HangUntilTimeout((WAIT,), 300.0),
    Livelock((ADD, ADD)),
    UncontrolledBlocking(1, "stack"),
    Nondeterminism(3, (ADD,), (ADD, WAIT.step)),
]
NAMES = [type(verdict).__name__ for verdict in VERDICTS]


def test_all_kinds_are_here():
    """The list above is complete."""
    assert {type(verdict) for verdict in VERDICTS} == set(Verdict.__subclasses__())


@pytest.mark.parametrize("verdict", VERDICTS, ids=NAMES)
def test_they_pickle(verdict):
    """All fields come back."""
    again = pickle.loads(pickle.dumps(verdict))
    assert type(again) is type(verdict)
    assert vars(again) == vars(verdict)
    assert (str(again), again.key) == (str(verdict), verdict.key)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(VERDICTS, 2)])
def test_they_differ(one, other):
    """Each kind has its key and its line."""

    def line_of(verdict):
        try:
            verdict.throw()
        except Verdict as error:
            return traceback.extract_tb(error.__traceback__)[-1].lineno

    assert one.key != other.key
    assert line_of(one) != line_of(other)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            VERDICTS[0],
            "rank 1 failed at ?: ValueError: text\n  rank 1: wait(['k']); missing: 'k'\n    at a.py:3",
        ),
        (
            VERDICTS[2],
            "deadlock of rank 1\n  rank 1: wait(['k']); missing: 'k'\n    at a.py:3\n  rank 0 has returned",
        ),
        (VERDICTS[4], "livelock of rank 0, which do again and again:\n  rank 0: add('n', 1)"),
        (
            VERDICTS[6],
            "one schedule, two executions: they differ at step 3\n"
            "  once:  rank 0: add('n', 1)\n  again: rank 0: add('n', 1); rank 1: wait(['k'])",
        ),
    ],
)
def test_texts(verdict, text):
    """They say who, what, and what is missing."""
    assert str(verdict) == text


def test_the_key_does_not_depend_on_the_schedule():
    """The same defect under two schedules has one key; the place is in the rank's code."""

    def work(rank, world_size, store):
        store.add("n", 1)
        if rank == 1:
            store.add("n", 1.5)

    first, second = (simulate(work, schedule, ranks=2).verdict for schedule in ((), ((0, 1),)))
    assert first.key == second.key == ("RankFailed", 1, "TypeError", first.place)
    assert first.place == f"{__file__}:{work.__code__.co_firstlineno + 3}"


def test_the_first_exception_is_the_cause():
    """Of two ranks that fail, the one that failed first."""

    def work(rank, world_size, store):
        store.add("n", 1)
        raise ValueError

    assert simulate(work, (), ranks=2).verdict.rank == 0
    assert simulate(work, ((0, 1),), ranks=2).verdict.rank == 1


def test_comparing_executions():
    """Two runs of one schedule differ where something else decides, and only there."""
    calls = itertools.count()

    def honest(rank, world_size, store):
        store.add("n", 1)

    def fickle(rank, world_size, store):
        store.add("n", 1)
        store.add(f"call {next(calls)}", 1)

    def longer(rank, world_size, store):
        for _ in range(next(calls)):
            store.add("n", 1)

    def twice(function):
        with Simulation(function, Setting(1)) as simulation:
            return compare(simulation.run(SparseScheduler(())), simulation.run(SparseScheduler(())))

    assert twice(honest) is None
    difference = twice(fickle)
    assert (difference.at, difference.ranks) == (1, [0])
    assert [step.keys for step in difference.once + difference.again] == [("call 0",), ("call 1",)]
    assert twice(longer).once == ()


def test_where_ranks_wait(crew):
    """Each with the line of its code, and what became of the others."""

    def work(rank, world_size, store):
        if rank == 1:
            return
        if rank == 4:
            with expires(after=5, scope="work"):
                time.sleep(6)
        store.add("n", 1)
        store.wait(["never"])

    plan = kill(rank=2, op=1) | stop(rank=3, op=1)
    execution = simulate(work, (), plan, ranks=5)
    line = work.__code__.co_firstlineno + 7
    assert [each.place for each in execution.blocked] == [f"{__file__}:{line}"]
    assert execution.fates == (
        "rank 1 has returned",
        "rank 2 was ended by kill(rank=2, op=1)",
        "rank 3 is stopped by a fault",
        "rank 4 was ended by its timer 'work'",
    )


def test_the_hang_says_who_is_not_there():
    """The text names those whom the others may wait for."""
    with pytest.raises(HangUntilTimeout, match=r"\n  rank 2 has returned"):
        simulate(end_alone, ranks=3).check()


def test_a_place_within_the_package():
    """Where no code of the user's is on the stack there is no place."""
    assert place_of([]) == "?"
    assert place_of([(sys._getframe(), 7)]) == f"{__file__}:7"
