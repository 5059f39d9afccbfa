"""A barrier that only rank 0 calls pairs with another one (Lightning#10947)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [0], "world#1", "barrier"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank == 0:
        dist.barrier()
    dist.barrier()  # hangs
    dist.all_reduce(torch.ones(2))


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.barrier()
    dist.all_reduce(torch.ones(2))
