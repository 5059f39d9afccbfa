"""A message that is waited for later, and never sent."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [0], "world:0>1,0#0", "recv"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank == 1:
        work = dist.irecv(torch.ones(2), 0)  # hangs
        work.wait()


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    if rank == 1:
        dist.irecv(torch.ones(2), 0).wait()
    elif rank == 0:
        dist.isend(torch.ones(2), 1).wait()
