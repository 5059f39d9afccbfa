"""A rank sleeps for longer than the test may take."""

import time

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [1], "world#1", "all_reduce"


@pytest.mark.elastic(nprocs=3, timeout=3)
def test_buggy(process_group, rank):
    dist.barrier()
    if rank == 1:
        time.sleep(60)
    dist.all_reduce(torch.ones(2))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    dist.barrier()
    if rank == 1:
        time.sleep(0.2)
    dist.all_reduce(torch.ones(2))
