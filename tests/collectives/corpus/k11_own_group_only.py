"""Each rank makes only the group that it is in (pytorch#25390)."""

import pytest
import torch.distributed as dist

VERDICT, RANKS, CALL, OPERATION = "CollectiveMismatch", [0, 1, 2, 3], "world new_group#0", "new_group"


@pytest.mark.elastic(nprocs=4)
def test_buggy(process_group, rank):
    group = dist.new_group([rank // 2 * 2, rank // 2 * 2 + 1])  # hangs
    dist.barrier(group)


@pytest.mark.elastic(nprocs=4)
def test_fixed(process_group, rank):
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    dist.barrier(groups[rank // 2])
