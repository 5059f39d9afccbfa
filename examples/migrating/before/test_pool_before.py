"""A test by a harness of the project, `distributed_case.py`.  `test_pool_after.py` is the same on ranks."""

import pytest

torch = pytest.importorskip("torch")
dist = torch.distributed
harness = pytest.importorskip("distributed_case")


class TestShards(harness.DistributedCase):
    world_size = 2

    def test_shards_are_exchanged(self):
        rank = dist.get_rank()
        mine, others = torch.arange(2) + 10 * rank, torch.empty(2, dtype=torch.int64)
        dist.all_gather(shards := [others, others.clone()], mine)
        assert torch.cat(shards).tolist() == [0, 1, 10, 11]
