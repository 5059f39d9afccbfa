"""All ranks of a ring receive before they send."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "Deadlock", [0, 1, 2], "world:2>0,0#0", "recv"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    dist.recv(torch.ones(2), (rank - 1) % 3)  # hangs
    dist.send(torch.ones(2), (rank + 1) % 3)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    work = dist.isend(torch.ones(2), (rank + 1) % 3)
    dist.recv(torch.ones(2), (rank - 1) % 3)
    work.wait()
