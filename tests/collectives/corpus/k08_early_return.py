"""A rank without results returns before the gather."""

import pytest
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [2], "world#0", "all_gather"


def collect(results, wise):
    if not results and not wise:
        return
    found = [None] * 3
    dist.all_gather_object(found, results)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, rank):
    collect([] if rank == 2 else [rank], wise=False)


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, rank):
    collect([] if rank == 2 else [rank], wise=True)
