"""22: a rank ends its process with code 0 and without a word."""

import os

import pytest

VERDICT, RANKS, KEYS = "Exited", [1], ["world/barrier/epoch/1"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    if world.rank == 1:
        os._exit(0)
    world.barrier("epoch")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    world.barrier("epoch")
