"""Programs that poll: fair turns, leaps of the clock, and livelocks."""

from __future__ import annotations

import time

import pytest

from pytest_elastic.simulator import Livelock, simulate
from pytest_elastic.simulator._fairness import UNFAIR


def test_a_poller_starves_nobody_for_ever(crew):
    """A schedule that lets one rank poll gives the others their turns in the end."""

    def work(rank, world_size, store):
        if rank == 0:
            while not store.check(["k"]):
                pass
        else:
            store.set("k", "")

    execution = simulate(work, ranks=3).check()
    assert execution.turns == UNFAIR
    assert len(execution.steps) < UNFAIR + 10
    assert execution.delays == ()


def test_a_livelock(crew):
    """Ranks that run for ever, where nothing changes."""

    def work(rank, world_size, store):
        store.set(f"{rank}", "")
        while not store.check([f"{rank + 1}"]):
            pass

    with pytest.raises(Livelock, match="livelock of rank 1") as info:
        simulate(work, ranks=2).check()
    assert {step.name for step in info.value.steps} == {"check"}


def test_a_livelock_of_two():
    """Each undoes what the other does."""

    def work(rank, world_size, store):
        while True:
            if store.add("n", 1) == 2:
                return
            store.add("n", -1)
            store.wait([])
            if not store.check(["never"]):
                store.set("n", "5")

    with pytest.raises(Livelock) as info:
        simulate(work, ranks=2).check()
    assert info.value.ranks == [0, 1]


def test_a_livelock_that_changes_something():
    """One that counts up for ever is found by its length."""

    def work(rank, world_size, store):
        while True:
            store.add("n", 1)

    with pytest.raises(Livelock):
        simulate(work, ranks=1).check()


def test_a_livelock_with_sleeps():
    """Sleeping does not make it progress."""

    def work(rank, world_size, store):
        while not store.check(["never"]):
            time.sleep(0.1)

    with pytest.raises(Livelock):
        simulate(work, ranks=1).check()


def test_a_poller_that_looks_at_the_clock():
    """Time goes on for whoever waits for it without sleeping."""

    def work(rank, world_size, store):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            store.check(["never"])
        return time.monotonic()

    assert simulate(work, ranks=1).check().results[0] >= 60
