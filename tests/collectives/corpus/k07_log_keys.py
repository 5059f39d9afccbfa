"""A rank logs a value more (Lightning#19106)."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CountMismatch", [0, 2], "world#2", "all_reduce"


def log(values):
    for value in values.values():
        dist.all_reduce(torch.tensor([value]))  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    log({"loss": 1.0, "lr": 0.1, "overflow": 1.0} if rank == 1 else {"loss": 1.0, "lr": 0.1})


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    log({"loss": 1.0, "lr": 0.1, "overflow": float(rank == 1)})
