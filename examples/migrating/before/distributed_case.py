"""A harness as many projects have one: the methods of a test run in all processes of a pool."""

import functools
import multiprocessing
import os
import socket

import torch.distributed as dist


class DistributedCase:
    """Test methods of a subclass run in `world_size` processes, each a rank of a gloo group."""

    world_size = 2
    timeout = 300

    def __init_subclass__(cls):
        for name, method in list(vars(cls).items()):
            if name.startswith("test_"):
                setattr(cls, name, _on_pool(cls, method))


def _on_pool(case, method):
    @functools.wraps(method)
    def run(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        ranks = [(case, method.__name__, rank, port) for rank in range(case.world_size)]
        with multiprocessing.get_context("forkserver").Pool(case.world_size) as pool:
            pool.starmap_async(_be_rank, ranks, chunksize=1).get(case.timeout)

    return run


def _be_rank(case, name, rank, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(case.world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    try:
        getattr(case, name).__wrapped__(case())
    finally:
        dist.destroy_process_group()
