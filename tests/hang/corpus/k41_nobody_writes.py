"""Everybody waits for one key, and nobody is left to write it: the timeout is all that will happen."""

import pytest

VERDICT, RANKS, KEYS = "HangUntilTimeout", [0, 1], ["go"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    world.store.wait(["go"])  # hangs


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 0:
        world.store.set("go", "1")
    world.store.wait(["go"])
