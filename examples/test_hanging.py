"""A test for each verdict on a hang, with the cause that the report names; timeouts of 300 s pass at once.

The last three hang outside of the store, and are found when their timeout ends.  To see the whole reports:
`pytest --runxfail examples/test_hanging.py`.
"""

import ctypes
import os
import signal

import pytest

pytestmark = [pytest.mark.elastic(nprocs=2), pytest.mark.xfail(strict=True, reason="it hangs")]


def test_missing_rank(world):
    """MissingRank: rank 1 passed without joining "saved"."""
    if world.rank == 0:
        world.barrier("saved")


def test_count_mismatch(world):
    """CountMismatch: rank 0 passed after 2 barriers; rank 1 is at number 3, "step" (use 3)."""
    for _ in range(2 + world.rank):
        world.barrier("step")


def test_order_mismatch(world):
    """OrderMismatch: rank 1 is at barrier "save", rank 0 is at barrier "log"."""
    for name in ("save", "log") if world.rank else ("log", "save"):
        world.barrier(name)


def test_order_mismatch_of_collectives(world):
    """OrderMismatch: rank 0 is at gather, rank 1 is at broadcast from rank 0."""
    if world.rank == 0:
        world.gather("part")
    world.broadcast("value", src=0)


def test_stale_prefix(world):
    """StalePrefix: different uses of one barrier meet:

    rank 0 is at barrier "step", rank 1 is at barrier "step" (use 2).
    """
    if world.rank == 1:
        world._calls["barrier/step"] = 1  # It counts a use that it did not make.
    world.barrier("step")


def test_deadlock(world):
    """Deadlock: ranks 0-1 wait for each other: rank 0 for "from1", rank 1 for "from0"."""
    world.store.wait([f"from{1 - world.rank}"])
    world.store.set(f"from{world.rank}", "1")


def test_doomed_wait(world):
    """DoomedWait: rank 0 passed and waits for the others to finish their call (tests run in lockstep),

    and nobody else can write "value".
    """
    if world.rank == 1:
        world.store.get("value")


def test_hang_until_timeout(world):
    """HangUntilTimeout: ranks 0-1 wait for "go", which nobody wrote; the first timeout is 300 s away."""
    world.store.get("go")


def test_exited(world):
    """Exited: rank 1 was killed by SIGKILL before joining "saved"."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.barrier("saved")


@pytest.mark.elastic(timeout=1)
def test_stopped(world):
    """Stopped (suspected): rank 1 is stopped by a signal, and did nothing in the store."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.barrier("saved")


@pytest.mark.elastic(timeout=1)
def test_spinning(world):
    """Spinning (suspected): rank 1 computes, and did nothing in the store."""
    while world.rank == 1:
        pass
    world.barrier("saved")


@pytest.mark.elastic(timeout=1)
def test_blocked_outside(world):
    """BlockedOutside (suspected): rank 1 sleeps at test_hanging.py:98, and did nothing in the store."""
    if world.rank == 1:
        ctypes.PyDLL(None).sleep(60)  # It holds the interpreter's lock.
    world.barrier("saved")
