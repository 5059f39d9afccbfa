"""An exception in one rank (torchtitan#1342)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [1], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank == 1:
        raise ValueError("corrupt shard")
    dist.all_reduce(torch.ones(2))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.all_reduce(torch.ones(2))
