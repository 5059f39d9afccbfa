"""Each rank decides by its own loss whether to stop (Lightning#379)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [1], "world#4", "all_reduce"


def train(rank, together):
    losses = [5, 4, 3, 2] if rank != 1 else [5, 1, 1, 1]
    for loss in losses:
        dist.all_reduce(torch.ones(2))  # hangs
        bad = torch.tensor([float(loss)])
        dist.all_reduce(bad, dist.ReduceOp.MIN)
        if (bad.item() if together else loss) < 2:
            break


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    train(rank, together=False)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    train(rank, together=True)
