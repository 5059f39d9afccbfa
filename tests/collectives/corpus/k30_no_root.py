"""The root of a scatter leaves."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [0], "world#0", "scatter"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank:
        dist.scatter(torch.ones(2), src=0)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.scatter(torch.ones(2), [torch.ones(2)] * 3 if rank == 0 else None, src=0)
