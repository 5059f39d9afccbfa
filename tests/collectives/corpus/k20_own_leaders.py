"""Each rank that sees no leader takes itself for one."""

import pytest
import torch
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [0, 1, 2], "world#0", "broadcast"


@pytest.mark.elastic(nprocs=3)
def test_buggy(process_group, world):
    leader = int(world.store.get("leader")) if world.store.check(["leader"]) else world.rank
    dist.broadcast(torch.ones(2), leader)  # hangs


@pytest.mark.elastic(nprocs=3)
def test_fixed(process_group, world):
    leader = int(world.store.compare_set("leader", "", str(world.rank)))
    dist.broadcast(torch.ones(2), leader)
