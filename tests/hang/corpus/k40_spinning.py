"""A rank computes for ever."""

import pytest

VERDICT, RANKS, KEYS = "Spinning", [1], []


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    while world.rank == 1:  # stands
        pass  # stands
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        sum(range(10**6))
    world.barrier("epoch")
