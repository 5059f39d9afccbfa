"""Those whose rank is not the root of a group broadcast in it, and the root does not (pytorch#67600)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [0], "*[0,1]#0", "broadcast"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    group = dist.new_group([0, 1])
    if rank != 0:
        dist.broadcast(torch.ones(2), 0, group=group)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    group = dist.new_group([0, 1])
    if rank in (0, 1):
        dist.broadcast(torch.ones(2), 0, group=group)
