"""Two ranks use two groups in another order."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "OrderMismatch", [0, 1, 2], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    group = dist.new_group([1, 2])
    order = [group, None] if rank == 1 else [None, group] if rank == 2 else [None]
    for one in order:
        dist.all_reduce(torch.ones(2), group=one)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    group = dist.new_group([1, 2])
    for one in [group, None] if rank else [None]:
        dist.all_reduce(torch.ones(2), group=one)
