"""Rank 0 validates with the DDP module, whose forward broadcasts buffers (pytorch#54059)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [0], "world#6", "broadcast"


def wrapped(*layers):
    torch.manual_seed(0)
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_buggy(process_group, rank):
    model = wrapped(torch.nn.BatchNorm1d(2))
    if rank == 0:
        model(torch.ones(4, 2))
    model(torch.ones(4, 2)).sum().backward()  # hangs
    dist.barrier()


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_fixed(process_group, rank):
    model = wrapped(torch.nn.BatchNorm1d(2))
    if rank == 0:
        model.module(torch.ones(4, 2))
    model(torch.ones(4, 2)).sum().backward()
    dist.barrier()
