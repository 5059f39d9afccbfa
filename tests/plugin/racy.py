"""Tests that fail in some orders of their store operations only; `again` counts how often each is run."""

from __future__ import annotations

import os

import pytest

from pytest_elastic.launch import current_world


def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("again")
    metafunc.parametrize("again", range(int(os.environ.get("TIMES", "5"))))


@pytest.mark.elastic(nprocs=2)
def test_counter(world):
    """A read and a write are no addition."""
    store = world.store
    store.set("n", "0") if world.rank == 0 else store.get("n")
    store.set("n", str(int(store.get("n")) + 1))
    world.barrier()
    assert int(store.get("n")) == 2


@pytest.mark.elastic(nprocs=3)
def test_leader(world):
    """The leader waits for those who saw its announcement, and one looked before it."""
    store, rank = world.store, world.rank
    if store.compare_set("leader", "", str(rank)) == str(rank).encode():
        store.set("epoch", "1")
        store.wait([f"ack{other}" for other in range(3) if other != rank], 0.2)
    elif store.check(["epoch"]):
        store.set(f"ack{rank}", "1")


@pytest.mark.elastic(nprocs=4)
def test_generation(world):
    """The generation is read after the count, so that a late reader waits for the next one."""
    store = world.store
    arrived = store.add("count", 1)
    generation = int(store.add("generation", 0))
    if arrived == 4:
        store.set(f"go{generation}", "1")
        store.add("generation", 1)
    store.wait([f"go{generation}"], 0.2)


@pytest.mark.elastic(nprocs=2)
def test_locks(world):
    """Two locks, taken in two orders."""
    store, first = world.store, world.rank
    for lock in (first, 1 - first):
        if store.add(f"lock{lock}", 1) > 1:
            store.wait([f"free{lock}"], 0.2)
    store.set("free0", "1")
    store.set("free1", "1")


def wake(rank, world_size):
    store = current_world().store
    if rank == 0:
        store.get("ready")
        store.set("go", "1")
        store.delete_key("go")
    else:
        store.set("ready", "1")
        store.wait(["go"], 0.2)


def test_wake_up(elastic):
    """The signal is gone before anybody waits for it."""
    elastic.run(wake, nprocs=2)
