"""23: a rank is killed in the middle of its work."""

import os
import signal

import pytest

VERDICT, RANKS, KEYS = "Exited", [2], ["world/barrier/epoch/2"]


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    world.barrier("epoch")
    if world.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    world.barrier("epoch")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    world.barrier("epoch")
    world.barrier("epoch")
