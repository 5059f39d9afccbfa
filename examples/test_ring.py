"""Ranks exchange values through the store: each sets its number and reads its left neighbour's."""

import pytest


@pytest.mark.elastic(nprocs=4, timeout=30)
def test_ring(world, shared_tmp_path, monkeypatch):
    world.store.set(f"ring/{world.rank}", str(world.rank))
    left = world.store.get(f"ring/{(world.rank - 1) % world.size}")
    assert int(left) == (world.rank - 1) % world.size
    world.barrier("done")


@pytest.mark.elastic(nprocs=[2, 4])
def test_gather_and_broadcast(world):
    assert world.gather(world.rank**2) == [rank**2 for rank in range(world.size)]
    assert world.broadcast({"seed": world.rank}, src=1) == {"seed": 1}
