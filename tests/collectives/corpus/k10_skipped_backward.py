"""A rank skips the backward pass of a bad loss."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [1], "world#*", "all_reduce"


def wrapped(*layers):
    torch.manual_seed(0)
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))


def train(rank, skips):
    model = wrapped(torch.nn.Linear(4, 1))  # Kept: a DDP that is gone reduces nothing.
    loss = model(torch.ones(2, 4)).sum()
    if not (skips and rank == 1):
        loss.backward()
    dist.all_reduce(loss.detach())  # hangs


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_buggy(process_group, rank):
    train(rank, skips=True)


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_fixed(process_group, rank):
    train(rank, skips=False)
