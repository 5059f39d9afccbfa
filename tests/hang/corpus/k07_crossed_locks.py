"""7: two locks made of counters, taken in opposite order."""

import pytest

VERDICT, RANKS, KEYS = "Deadlock", [0, 1], ["free/b", "free/a"]


def lock(store, name):
    if store.add(f"lock/{name}", 1) > 1:
        store.wait([f"free/{name}"])  # hangs


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    first, second = ("a", "b") if world.rank == 0 else ("b", "a")
    lock(world.store, first)
    world.barrier("both have one")
    lock(world.store, second)
    world.store.set(f"free/{first}", "1")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    for name in ("a", "b"):
        lock(world.store, name)
    for name in ("a", "b"):
        world.store.set(f"free/{name}", "1")
