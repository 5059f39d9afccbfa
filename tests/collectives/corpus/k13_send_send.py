"""Two ranks send to each other before they receive (nccl#479)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "Deadlock", [0, 1], "world:0>1,0#0", "send"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank < 2:
        dist.send(torch.ones(4), 1 - rank)  # hangs
        dist.recv(torch.ones(4), 1 - rank)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    if rank == 0:
        dist.send(torch.ones(4), 1)
        dist.recv(torch.ones(4), 1)
    elif rank == 1:
        dist.recv(torch.ones(4), 0)
        dist.send(torch.ones(4), 0)
