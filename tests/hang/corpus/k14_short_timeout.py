"""14: a timeout that is shorter than the slowest rank needs: no hang, and nobody is called gone."""

import time

import pytest

VERDICT, RANKS, KEYS = None, [], []


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    if world.rank == 1:
        time.sleep(0.5)
    world.barrier("slow", timeout=0.05)


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        time.sleep(0.2)
    world.barrier("slow", timeout=30)
