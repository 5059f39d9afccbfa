"""A rank is killed before it calls."""

import os
import signal

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "Exited", [1], "world#0", "all_reduce"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(2))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.all_reduce(torch.ones(2))
