"""A rank has a batch less under DDP (pytorch#33148)."""

import pytest
import torch

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [1], "world#4", "broadcast"


def wrapped(*layers):
    torch.manual_seed(0)
    return torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))


def train(model, batches):
    for _ in range(batches):
        model(torch.ones(2, 2)).sum().backward()  # hangs


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_buggy(process_group, rank):
    train(wrapped(torch.nn.Linear(2, 1)), 1 if rank == 1 else 2)


@pytest.mark.elastic(nprocs=3, timeout=200)
def test_fixed(process_group, rank):
    train(wrapped(torch.nn.Linear(2, 1)), 2)
