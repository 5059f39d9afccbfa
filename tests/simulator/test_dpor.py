"""The exhaustive search: every trace, once."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_elastic.faults import (
    FaultPlan,
    delay,
    drop,
    exit,
    kill,
    late_join,
    resume,
    server_gone,
    stop,
)
from pytest_elastic.scheduling import Step
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._simulation import RankFunction
from pytest_elastic.store import Arrival, barrier
from simulator.corpus import KERNELS
from simulator.oracle import SleepSets, compare_searches, visits

Rounds = Callable[[int, int], int]
BIG = {"generation_after_add", "generation_before_add", "prefix_reuse", "reset_race"}
PROGRAMS = [
    pytest.param(function, kernel, id=function.__name__)
    for kernel in KERNELS
    for function in (kernel.buggy, kernel.fixed)
    if function.__name__ not in BIG
]


@pytest.mark.parametrize("wake", ["latched", "level"])
@pytest.mark.parametrize(("function", "kernel"), PROGRAMS)
def test_the_oracle_agrees(function: RankFunction, kernel: Any, wake: Any) -> None:
    """On each kernel and its twin: no trace is missing, none is extra, none is visited twice."""
    ranks = 2 if wake == "level" else kernel.ranks
    comparison = compare_searches(function, Setting(ranks, **kernel.options | {"wake": wake}))
    assert comparison.agree, comparison


def traces(function: RankFunction, setting: Setting, search: type[Dpor] = Dpor) -> dict[Any, str]:
    """How each trace ended."""
    found: dict[Any, str] = {}
    for execution, scheduler in visits(search, function, setting):
        if not execution.cut:
            end = outcome(execution)
            assert found.setdefault(scheduler.trace.canonical(), end) == end, "one trace has one end"
    return found


def outcome(execution: Execution) -> str:
    errors = {rank: f"{type(error).__name__}: {error}" for rank, error in sorted(execution.errors.items())}
    blocked = [(each.rank, each.missing) for each in execution.blocked]
    return repr((execution.results, errors, blocked, execution.now))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("barriers", [1, 2])
def test_barriers(barriers: int, ranks: int) -> None:
    """What tells schedules apart is who came last: n for each barrier."""

    def program(rank: int, world_size: int, store: Any) -> None:
        for i in range(barriers):
            barrier(store, world_size, f"b{i}")

    assert len(traces(program, Setting(ranks))) == ranks**barriers


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_count_that_is_told(ranks: int) -> None:
    """Anybody may look at the number that a plain `add` gives: n! orders."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if store.add("count", 1) == world_size:
            store.set("go", "1")
        store.wait(["go"])

    assert len(traces(program, Setting(ranks))) == math.factorial(ranks)


def test_barriers_of_the_store_commute() -> None:
    """Nobody learns who came when."""

    def program(rank: int, world_size: int, store: Any) -> None:
        store.barrier("a", world_size)
        store.barrier("b", world_size)

    assert len(traces(program, Setting(4))) == 1


def test_what_came_too_late_is_reversed() -> None:
    """A wait that never returns still races with the deletion before it."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            store.set("k", "1")
            store.delete_key("k")
        else:
            store.wait(["k"])

    ends = traces(program, Setting(2))
    assert sorted(end.count("'k'") for end in ends.values()) == [0, 1]


def test_the_search_looks_past_the_write_that_wakes() -> None:
    """The deletion is to be reversed with the wait; the set in between only lets it go on."""

    def program(rank: int, world_size: int, store: Any) -> list[bool]:
        if rank == 0:
            store.set("k", "1")
            store.delete_key("k")
            store.set("k", "2")
            return []
        store.wait(["k"])
        return [store.check(["k"])]

    ends = traces(program, Setting(2))
    assert {end for end in ends.values() if "False" in end}, "between the deletion and the second set"
    assert {end for end in ends.values() if "True" in end}


def test_an_expiry_may_come_first() -> None:
    """Under explored time a wait that is answered could have expired before."""

    def program(rank: int, world_size: int, store: Any) -> str:
        if rank == 1:
            store.set("k", "1")
            return "set"
        try:
            store.wait(["k"], 1.0)
        except RuntimeError:
            return "expired"
        return "seen"

    ends = traces(program, Setting(2, expiries=1)).values()
    assert any("expired" in end for end in ends)
    assert any("seen" in end for end in ends)


def test_an_expiry_may_come_before_the_rest() -> None:
    """Ranks that hang at the end wait with a deadline, which could have fired while others ran."""

    def program(rank: int, world_size: int, store: Any) -> Any:
        return store.num_keys() if rank == 0 else store.wait(["k"])

    setting = Setting(2, expiries=1)
    every = traces(program, setting, AllSchedules)
    assert traces(program, setting) == every
    assert sum("missing keys: 'k'" in end for end in every.values()) == 1


class AllSchedules(SleepSets):
    """No reduction at all."""

    def sleepers(self, steps: dict[int, Step]) -> set[int]:
        return set()


def _look_once(store: Any, key: str) -> Any:
    other = store.clone()
    other.set_timeout(0)
    return other.get(key)


OPERATIONS = {
    "set": lambda store, key, other, rank: store.set(key, str(rank)),
    "get": lambda store, key, other, rank: store.get(key),
    "look once": lambda store, key, other, rank: _look_once(store, key),
    "add": lambda store, key, other, rank: store.add(key, 1),
    "arrive": lambda store, key, other, rank: store.add(key, Arrival(rank)),
    "members": lambda store, key, other, rank: store.members(key),
    "swap": lambda store, key, other, rank: store.compare_set(key, "1", str(5 + rank)),
    "create": lambda store, key, other, rank: store.compare_set(key, "", "1"),
    "delete": lambda store, key, other, rank: store.delete_key(key),
    "append": lambda store, key, other, rank: store.append(key, str(rank)),
    "check": lambda store, key, other, rank: store.check([key]),
    "check two": lambda store, key, other, rank: store.check([key, other]),
    "wait": lambda store, key, other, rank: store.wait([key]),
    "wait for two": lambda store, key, other, rank: store.wait([key, other]),
    "wait shortly": lambda store, key, other, rank: store.wait([key], 1.0),
    "wait not": lambda store, key, other, rank: store.wait([key], 0),
    "get two": lambda store, key, other, rank: store.multi_get([key, other]),
    "set two": lambda store, key, other, rank: store.multi_set([key, other], ["1", str(rank)]),
    "count keys": lambda store, key, other, rank: store.num_keys(),
    "push": lambda store, key, other, rank: store.queue_push(key, str(rank)),
    "pop": lambda store, key, other, rank: store.queue_pop(key),
    "pop at once": lambda store, key, other, rank: store.queue_pop(key, False),
    "measure": lambda store, key, other, rank: store.queue_len(key),
    "barrier": lambda store, key, other, rank: store.barrier(key, 2),
    "meet": lambda store, key, other, rank: barrier(store, 2, key, 1.0),
    "sleep": lambda store, key, other, rank: time.sleep(1.0),
}


def random_program(seed: int) -> tuple[RankFunction, Setting]:
    """A few operations for each of a few ranks, on two keys."""
    chance = random.Random(seed)
    names = chance.sample(sorted(OPERATIONS), chance.choice([3, 5, 8, len(OPERATIONS)]))
    ranks = chance.choice([2, 2, 3])
    scripts = [
        [(chance.choice(names), chance.choice("ab")) for _ in range(chance.randint(1, 5 - ranks))]
        for _ in range(ranks)
    ]

    def program(rank: int, world_size: int, store: Any) -> list[Any]:
        answers: list[Any] = []
        for name, key in scripts[rank]:
            try:
                answers.append(OPERATIONS[name](store, key, "ab".replace(key, ""), rank))
            except RuntimeError as error:
                answers.append(str(error))
        return answers

    program.__doc__ = repr(scripts)
    setting = Setting(
        ranks,
        wake=chance.choice(["latched", "level"]),
        expiries=chance.choice([0, 0, 1]),
        may_timeout=True,
    )
    return program, setting


def random_fault(seed: int, ranks: int) -> FaultPlan:
    """One that happens to its victim at an operation of its own."""
    chance = random.Random(seed)
    rank, op = chance.randrange(ranks), chance.randint(1, 3)
    return chance.choice(
        [
            kill(rank, op=op),
            exit(rank, 1, op=op),
            delay(rank, 1.0, op=op),
            stop(rank, 1.0, op=op),
            drop(rank, op=op),
            late_join(rank, 1.0),
            kill(rank, key=chance.choice("ab")),
        ]
    )


def seeds(batch: int, rounds: Rounds) -> range:
    """Those of a batch, or its last ones: two of the first have so many schedules that they take most of the time."""
    return range(batch * 25 + 25 - rounds(15, 25), batch * 25 + 25)


@pytest.mark.parametrize("batch", range(2))
def test_nothing_is_lost_with_faults(batch: int, rounds: Rounds) -> None:
    """Neither in programs whose ranks are killed, stopped, slowed down, or lose a write."""
    for seed in seeds(batch, rounds):
        program, setting = random_program(1000 + seed)
        setting = replace(setting, faults=random_fault(seed, setting.ranks))
        every = traces(program, setting, AllSchedules)
        assert traces(program, setting) == every, f"seed {seed}: {setting} {program.__doc__}"


@pytest.mark.parametrize(
    "faults", [server_gone(op=2), kill(0, op=1, of=1), stop(0, op=1, of=1) | resume(0, op=2, of=1)]
)
def test_nothing_is_lost_when_one_ranks_doing_strikes_another(faults: FaultPlan) -> None:
    """Then nothing is reduced."""

    def program(rank: int, world_size: int, store: Any) -> list[int]:
        store.add(f"k{rank}", 1)
        return [store.add("n", 1), store.add("n", 1)]

    setting = Setting(2, faults=faults, may_timeout=True)
    assert traces(program, setting) == traces(program, setting, AllSchedules)


@pytest.mark.parametrize("batch", range(4))
def test_nothing_is_lost_on_random_programs(batch: int, rounds: Rounds) -> None:
    """The reduced search, the oracle and all schedules find the same traces, and one trace has one end."""
    for seed in seeds(batch, rounds):
        program, setting = random_program(seed)
        every = traces(program, setting, AllSchedules)
        assert traces(program, setting) == every, f"seed {seed}: {setting} {program.__doc__}"
        assert traces(program, setting, SleepSets) == every, f"seed {seed}: {setting} {program.__doc__}"
