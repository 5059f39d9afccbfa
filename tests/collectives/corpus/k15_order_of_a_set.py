"""Ranks iterate over a set, in other orders (apex#19)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [1], "world#0", "all_reduce"


def reduce_all(names):
    sizes = {"weight": 8, "bias": 2}
    for name in names:
        dist.all_reduce(torch.ones(sizes[name]))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    reduce_all(["weight", "bias"] if rank != 1 else ["bias", "weight"])


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    reduce_all(sorted(["weight", "bias"] if rank != 1 else ["bias", "weight"]))
