"""Children that nobody waits for, since they end with the rank."""

import multiprocessing
import time
from multiprocessing import shared_memory

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)


def test_shared_memory(world):
    """Which starts the tracker of resources, that nobody waits for."""
    if world.rank == 0:
        memory = shared_memory.SharedMemory(create=True, size=16)
        memory.buf[:5] = b"hello"
        world.store.set("name", memory.name)
        world.store.wait(["read"], 30)
        memory.close()
        memory.unlink()
    else:
        memory = shared_memory.SharedMemory(world.store.get("name").decode())
        assert bytes(memory.buf[:5]) == b"hello"
        multiprocessing.resource_tracker.unregister(memory._name, "shared_memory")
        memory.close()
        time.sleep(0.2)
        world.store.set("read", "1")
