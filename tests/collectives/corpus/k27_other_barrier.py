"""A rank waits at a barrier of the store."""

import pytest
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "OrderMismatch", [0, 1, 2], "world#0", "barrier"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, world):
    if world.rank == 2:
        world.barrier("end")
    dist.barrier()  # hangs
    world.barrier("end")


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, world):
    dist.barrier()
    world.barrier("end")
