"""Two ends of a message have other tags."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "Deadlock", [0, 1], "world:0>1,1#0", "send"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank == 0:
        dist.send(torch.ones(2), 1, tag=1)  # hangs
    elif rank == 1:
        dist.recv(torch.ones(2), 0, tag=2)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    if rank == 0:
        dist.send(torch.ones(2), 1, tag=1)
    elif rank == 1:
        dist.recv(torch.ones(2), 0, tag=1)
