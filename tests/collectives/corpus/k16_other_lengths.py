"""An all_gather of tensors with other lengths (Lightning#7773)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [2], "world#0", "all_gather"


def gather(tensor):
    dist.all_gather([torch.empty_like(tensor) for _ in range(3)], tensor)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    gather(torch.ones(5 if rank == 2 else 4))


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    gather(torch.nn.functional.pad(torch.ones(5 if rank == 2 else 4), (0, 5))[:5])
