"""45: a rank waits at a barrier with a file locked that the other one needs first."""

import fcntl

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [0, 1], []
CAUSE = "rank 1 waits for a lock of a file that rank 0 holds (descriptor "


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world, shared_tmp_path):
    with open(shared_tmp_path / "lock", "w") as file:
        if world.rank == 1:
            world.store.wait(["locked"])
        fcntl.flock(file, fcntl.LOCK_EX)  # stands
        world.store.set("locked", "1")
        world.barrier("epoch")  # stands


@pytest.mark.elastic(nprocs=2)
def test_fixed(world, shared_tmp_path):
    with open(shared_tmp_path / "lock", "w") as file:
        if world.rank == 1:
            world.store.wait(["locked"])
        fcntl.flock(file, fcntl.LOCK_EX)
        world.store.set("locked", "1")
    world.barrier("epoch")
