"""All decide on a sum that only the root has (pytorch#77562)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [0], "world#1", "all_reduce"


def train(add_up):
    for _ in range(2):
        votes = torch.ones(1)
        add_up(votes)
        if votes.item() == 3:
            return
        dist.all_reduce(torch.ones(8))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    train(lambda votes: dist.reduce(votes, 0))


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    train(dist.all_reduce)
