"""A rank does not come to the group."""

import pytest
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "MissingRank", [2], "init *#0", "init_process_group"


@pytest.mark.elastic(nprocs=3)
def test_buggy(world):
    if world.rank != 2:
        dist.init_process_group("gloo")  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(world):
    dist.init_process_group("gloo")
    dist.barrier()  # Gloo fails in who still connects when another one hangs up.
    dist.destroy_process_group()
