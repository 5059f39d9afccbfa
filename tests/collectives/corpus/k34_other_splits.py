"""A rank expects another part of an all_to_all than it gets."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [0, 2], "world#0", "all_to_all_single"


def exchange(sends, expects):
    given, found = torch.ones(sum(sends)), torch.ones(sum(expects))
    dist.all_to_all_single(found, given, expects, sends)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    exchange([1, 1, 2] if rank == 0 else [1, 1, 1], [1, 1, 1])


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    exchange([1, 1, 2] if rank == 0 else [1, 1, 1], [2, 1, 1] if rank == 2 else [1, 1, 1])
