"""The last batch of a rank is smaller."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [1], "world#1", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    for size in (4, 3 if rank == 1 else 4):
        dist.all_reduce(torch.ones(size))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    for size in (4, 3 if rank == 1 else 4):
        dist.all_reduce(torch.nn.functional.pad(torch.ones(size), (0, 4 - size)))
