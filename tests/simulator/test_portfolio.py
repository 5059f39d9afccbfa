"""Each strategy on its own."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from pytest_elastic.simulator import Decision, RankFailed, Setting, Simulation, Step
from pytest_elastic.simulator._explore import explore
from pytest_elastic.simulator._portfolio import (
    PartialOrderSampling,
    PriorityChanges,
    RandomWalk,
    Starvation,
    portfolio,
)


def call(rank: int, name: str = "add", key: str = "k") -> Step:
    return Step(rank, "call", name, (key, 1))


def test_a_random_walk_takes_every_step() -> None:
    """Each about as often."""
    walk = RandomWalk(random.Random(0))
    decision = Decision([call(0), call(1), call(2)], -1, 0)
    taken = Counter(walk.choose(decision) for _ in range(3000))
    assert all(900 < times < 1100 for times in taken.values())


def test_pct_keeps_to_its_order() -> None:
    """Without a change point the highest rank runs until it cannot."""
    for seed in range(20):
        pct = PriorityChanges(random.Random(seed), 1, 10)
        decision = Decision([call(0), call(1), call(2)], -1, 0)
        assert len({pct.choose(decision) for _ in range(10)}) == 1


def test_pct_changes_so_often() -> None:
    """A change puts the running rank last: with d - 1 changes there are at most d runs of one rank."""
    for seed in range(50):
        pct = PriorityChanges(random.Random(seed), 3, 10)
        choices = [pct.choose(Decision([call(0), call(1), call(2)], -1, 0)) for _ in range(10)]
        changes = sum(one != other for one, other in itertools.pairwise(choices))
        assert changes <= 2
        assert set(pct._changes) <= set(range(10))


def test_pct_has_no_more_changes_than_decisions() -> None:
    """A program with one decision has one at most."""
    assert PriorityChanges(random.Random(0), 5, 1)._changes == {0}


def test_pct_finds_with_the_probability_that_was_published() -> None:
    """A defect of depth 2 in n = 2 ranks and k decisions: at least 1 in n k."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            for _ in range(6):
                store.add("noise", 1)
            store.set("flag", "1")
            store.delete_key("flag")
        else:
            assert not store.check(["flag"])

    length, runs = 9, 1000
    chance, found = random.Random(1), 0
    with Simulation(program, Setting(2)) as simulation:
        for _ in range(runs):
            found += simulation.run(PriorityChanges(chance, 2, length)).verdict is not None
    assert found >= 0.7 * runs / (2 * length)  # Far below the expectation, four deviations or so.


def test_pos_samples_partial_orders() -> None:
    """One writer among independent noise: every place of its order to another writer is likely."""

    def program(rank: int, world_size: int, store: Any) -> int:
        for i in range(5):
            store.add(f"own{rank}/{i}", 1)
        return int(store.add("shared", 1))

    chance, orders = random.Random(2), Counter[tuple[int, ...]]()
    with Simulation(program, Setting(3)) as simulation:
        for _ in range(600):
            orders[tuple(simulation.run(PartialOrderSampling(chance)).results)] += 1
    assert len(orders) == 6
    assert min(orders.values()) > 50


def test_pos_draws_again_for_those_that_race() -> None:
    """What shares a key with the step that was done, and one of them writes; readers keep what they have."""
    pos = PartialOrderSampling(random.Random(0))
    steps = [call(0, "check"), call(1, "check"), call(2, "set"), call(3, "set", "other")]
    done = pos.choose(Decision(steps, -1, 0))
    kept = {rank for rank, _ in pos._drawn}
    assert kept == ({0, 1, 2, 3} - {done}) - {0: {2}, 1: {2}, 2: {0, 1}, 3: set()}[done]


def test_somebody_starves() -> None:
    """For a stretch one rank at least does nothing, though it could."""
    starvation = Starvation(random.Random(3), 3, 100)
    taken = [starvation.choose(Decision([call(0), call(1), call(2)], -1, 0)) for _ in range(2000)]
    windows = [set(taken[at : at + 8]) for at in range(192)]
    assert min(map(len, windows)) < 3
    assert set(taken) == {0, 1, 2}


def test_the_starved_run_when_nobody_else_can() -> None:
    """Else there would be no execution."""
    for seed in range(20):
        starvation = Starvation(random.Random(seed), 2, 100)
        assert [starvation.choose(Decision([call(1)], 1, 0)) for _ in range(50)] == [0] * 50


@pytest.mark.parametrize("name", portfolio(3, 20))
def test_each_finds_a_rank_that_is_far_behind(name: str) -> None:
    """Rank 0 has ended before another one begins."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            for i in range(5):
                store.set(f"k{i}", "1")
        elif rank == 2:
            assert not store.check(["k4"]) or store.check(["started1"])
        else:
            store.set("started1", "1")

    with pytest.raises(RankFailed):
        explore(program, strategy=name)
