"""30: a rank holds the interpreter's lock in a call of C."""

import ctypes

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [1], []
CAUSE = "sleeps at k30"


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    if world.rank == 1:
        ctypes.PyDLL(None).sleep(60)  # stands
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        ctypes.PyDLL(None).usleep(300_000)
    world.barrier("epoch")
