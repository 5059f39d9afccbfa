"""6: a key is deleted before the one who waits for it has looked."""

import pytest

VERDICT, RANKS, KEYS = "DoomedWait", [1], ["ack"]


@pytest.mark.elastic(nprocs=2)
def test_buggy(world):
    if world.rank == 0:
        world.store.set("ack", "1")
        world.store.delete_key("ack")
        world.store.set("done", "1")
    else:
        world.store.wait(["done"])
        world.store.wait(["ack"])  # hangs


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 0:
        world.store.set("ack", "1")
        world.store.wait(["seen"])
        world.store.delete_key("ack")
    else:
        world.store.wait(["ack"])
        world.store.set("seen", "1")
