"""47: a rank ends with a lock taken that processes share."""

import multiprocessing

import pytest

VERDICT, RANKS, KEYS = "MissingRank", [0], []
CAUSE = "rank 0 passed, while rank 1 waits for a lock that processes share at k47_shared_lock.py:16"
KEPT, LOCK = multiprocessing.Lock(), multiprocessing.Lock()


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    if world.rank == 1:
        world.store.wait(["taken"])
    KEPT.acquire()
    world.store.set("taken", "1")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        world.store.wait(["taken"])
    with LOCK:
        world.store.set("taken", "1")
