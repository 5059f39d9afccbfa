"""A rank leaves before it has given its part to a gather."""

import pytest

VERDICT, RANKS, KEYS = "MissingRank", [2], ["world/gather/1"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    if world.rank < 2:
        world.gather(world.rank)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    assert world.gather(world.rank) == [0, 1, 2]
