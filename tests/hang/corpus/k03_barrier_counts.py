"""3: one rank does a step less than the others."""

import pytest

VERDICT, RANKS, KEYS = "CountMismatch", [2], ["world/barrier/step/3"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    for _ in range(2 if world.rank == 2 else 3):
        world.barrier("step")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    for _ in range(3):
        world.barrier("step")
