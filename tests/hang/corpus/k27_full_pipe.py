"""27: a rank writes more to a pipe than fits, and nobody reads."""

import os

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [1], []
CAUSE = "pipe"


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    if world.rank == 1:
        _, end = os.pipe()
        os.write(end, bytes(2**20))  # stands
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        _, end = os.pipe()
        os.set_blocking(end, False)
        os.write(end, bytes(2**20))
    world.barrier("epoch")
