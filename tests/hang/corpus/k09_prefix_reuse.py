"""9: a barrier's prefix is used again, so that its second use does not wait; nobody hangs, and it is wrong."""

import pytest

from pytest_elastic.store import barrier

VERDICT, RANKS, KEYS = "StalePrefix", [0], ["again"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    barrier(world.store, 2, "again", 300, rank=world.rank)
    if world.rank == 1:
        world.store.wait(["passed"])
        world.store.set("late", "1")
        return
    barrier(world.store, 2, "again", 300, rank=world.rank)
    there = world.store.check(["late"])
    world.store.set("passed", "1")
    assert there


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    barrier(world.store, 2, "first", 300, rank=world.rank)
    barrier(world.store, 2, "second", 300, rank=world.rank)
