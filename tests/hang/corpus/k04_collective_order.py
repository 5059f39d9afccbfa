"""4: ranks call two collectives in different order."""

import pytest

VERDICT, RANKS, KEYS = "OrderMismatch", [0, 1], ["world/barrier/save/1", "world/barrier/log/1"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    for name in ("save", "log") if world.rank else ("log", "save"):
        world.barrier(name)  # hangs


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    for name in ("save", "log"):
        world.barrier(name)
