"""46: a rank asks for a key again and again that the other one sets after a barrier for both."""

import time

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [0], []
CAUSE = 'rank 0 calls check("go") again and again'


@pytest.mark.elastic(nprocs=2, timeout=2)
def test_buggy(world):
    if world.rank == 0:
        while not world.store.check(["go"]):
            time.sleep(0.01)  # stands
    world.barrier("epoch")
    world.store.set("go", "1")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        world.store.set("go", "1")
    while not world.store.check(["go"]):
        time.sleep(0.01)
    world.barrier("epoch")
