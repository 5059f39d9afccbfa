"""5: each waits for the other's key before it writes its own."""

import pytest

VERDICT, RANKS, KEYS = "Deadlock", [0, 1], ["from0", "from1"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    world.store.wait([f"from{1 - world.rank}"])  # hangs
    world.store.set(f"from{world.rank}", "1")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    world.store.set(f"from{world.rank}", "1")
    world.store.wait([f"from{1 - world.rank}"])
