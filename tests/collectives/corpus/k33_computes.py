"""A rank computes for ever."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [2], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3, timeout=3)
def test_buggy(process_group, rank):
    while rank == 2:
        sum(range(1000))
    dist.all_reduce(torch.ones(2))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.all_reduce(torch.ones(2))
