"""A rank whose expert got no tokens skips its gradients (DeepSpeed#5008)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [1], "world#0", "barrier"


def step(tokens, always):
    if tokens or always:
        dist.all_reduce(torch.ones(16))
    dist.barrier()  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    step([3, 0, 2][rank], always=False)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    step([3, 0, 2][rank], always=True)
