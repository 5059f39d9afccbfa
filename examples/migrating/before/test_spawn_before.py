"""A function that the test spawns.  `test_spawn_after.py` is the same on ranks."""

import os
import socket

import pytest

torch = pytest.importorskip("torch")
dist, mp = torch.distributed, pytest.importorskip("torch.multiprocessing")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def scale(rank, world_size, port, factor):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    total = torch.tensor([float(rank * factor)])
    dist.all_reduce(total)
    assert total.item() == factor * sum(range(world_size))
    dist.destroy_process_group()


def test_scale():
    world_size = 2
    mp.spawn(scale, args=(world_size, free_port(), 3), nprocs=world_size, join=True)
