"""A rank has another type of numbers."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [1], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    dist.all_reduce(torch.ones(2, dtype=torch.float64 if rank == 1 else torch.float32))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.all_reduce(torch.ones(2))
