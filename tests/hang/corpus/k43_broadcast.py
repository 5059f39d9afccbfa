"""The rank that has the value leaves, while a third one still computes: known before that one is done."""

import time

import pytest

VERDICT, RANKS, KEYS = "MissingRank", [0], ["world/broadcast/0/1"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    if world.rank == 1:
        world.broadcast(None)  # hangs
    elif world.rank == 2:
        time.sleep(0.3)


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    assert world.broadcast("value" if world.rank == 0 else None) == "value"
