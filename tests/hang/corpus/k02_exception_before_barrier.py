"""2: a rank raises before a barrier, and the others wait for it."""

import pytest

VERDICT, RANKS, KEYS = "MissingRank", [1], ["world/barrier/epoch/1"]


def load(rank):
    if rank == 1:
        raise ValueError("no data")


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    load(world.rank)
    world.barrier("epoch")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    try:
        load(world.rank)
    except ValueError:
        pass
    world.barrier("epoch")
