"""A rank takes its rank in the group for the global one (torchrec#4601)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [2], "*[1,2,3]#0", "broadcast"


@pytest.mark.elastic(nprocs=4)
def test_buggy(process_group, rank):
    group = dist.new_group([1, 2, 3])
    if rank:
        dist.broadcast(torch.ones(2), 2 if rank == 2 else 1, group=group)  # hangs


@pytest.mark.elastic(nprocs=4)
def test_fixed(process_group, rank):
    group = dist.new_group([1, 2, 3])
    if rank:
        dist.broadcast(torch.ones(2), dist.get_global_rank(group, 0), group=group)
