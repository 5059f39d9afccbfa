"""The last rank has a batch less than the others."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [2], "world#2", "all_reduce"


def train(batches):
    total = torch.ones(4)
    for _ in range(batches):
        dist.all_reduce(total)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    train(2 if rank == 2 else 3)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    train(3)
