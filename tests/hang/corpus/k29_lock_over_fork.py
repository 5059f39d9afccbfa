"""29: a process is forked while a thread holds a lock, and waits for it for ever."""

import os
import threading

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [1], []
CAUSE = "wait"


def fork(held):
    lock = threading.Lock()
    if held:
        lock.acquire()
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        os._exit(0)
    os.waitpid(pid, 0)  # stands


@pytest.mark.elastic(nprocs=2, timeout=1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_buggy(world):
    if world.rank == 1:
        fork(True)
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        fork(False)
    world.barrier("epoch")
