"""A rank asks for another reduction, which gloo does not notice."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [2], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    dist.all_reduce(torch.ones(2), dist.ReduceOp.MAX if rank == 2 else dist.ReduceOp.SUM)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.all_reduce(torch.ones(2), dist.ReduceOp.MAX)
