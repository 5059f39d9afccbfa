"""21: the first use of a barrier on one rank meets the second use on another."""

import pytest

VERDICT, RANKS, KEYS = "StalePrefix", [0, 1], ["world/barrier/step/1", "world/barrier/step/2"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    if world.rank == 1:
        world._prefix("barrier/step")  # It counts a use that it does not make.
    world.barrier("step")  # hangs


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    world.barrier("step")
