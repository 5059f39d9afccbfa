"""A function that runs on ranks.  `test_spawn_before.py` spawned it."""

import pytest

torch = pytest.importorskip("torch")
dist = torch.distributed


def scale(rank, world_size, factor):
    dist.init_process_group("gloo")
    total = torch.tensor([float(rank * factor)])
    dist.all_reduce(total)
    assert total.item() == factor * sum(range(world_size))
    dist.destroy_process_group()


def test_scale(elastic):
    elastic.run(scale, nprocs=2, args=(3,))
