"""1: a rank returns before a barrier that counts it."""

import pytest

VERDICT, RANKS, KEYS = "MissingRank", [1], ["world/barrier/epoch/1"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    if world.rank == 1:
        return
    world.barrier("epoch")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    world.barrier("epoch")
