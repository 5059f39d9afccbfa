"""20: of the keys that a rank waits for only a part is ever written."""

import pytest

VERDICT, RANKS, KEYS = "DoomedWait", [0], ["b"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    if world.rank == 0:
        world.store.wait(["a", "b"])  # hangs
    else:
        world.store.set("a", "1")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 0:
        world.store.wait(["a", "b"])
    else:
        world.store.multi_set(["a", "b"], ["1", "2"])
