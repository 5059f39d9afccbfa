"""A skip connection of a pipeline is sent before what its receiver waits for (PiPPy#969)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "Deadlock", [0, 1, 2], "world:0>2,0#0", "send"


def stages(rank, order):
    data = torch.ones(4)
    if rank == 0:
        for stage in order:
            dist.send(data, stage)  # hangs
    elif rank == 1:
        dist.recv(data, 0)
        dist.send(data, 2)
    else:
        dist.recv(data, 1)
        dist.recv(data, 0)


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    stages(rank, [2, 1])


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    stages(rank, [1, 2])
