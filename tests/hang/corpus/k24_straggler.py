"""24: a rank is stopped.  While it may go on it is late and not dead; at the deadline it is named."""

import os
import signal
import time

import pytest

VERDICT, RANKS, KEYS = "Stopped", [1], []


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        world.store.set("pid", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        pid = int(world.store.get("pid"))
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
    world.barrier("epoch")
