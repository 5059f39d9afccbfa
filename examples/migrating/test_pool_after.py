"""A test on ranks, without a harness.  `test_pool_before.py` needed one of the project's own."""

import pytest

torch = pytest.importorskip("torch")
dist = torch.distributed


@pytest.mark.elastic(nprocs=2)
@pytest.mark.usefixtures("process_group")
class TestShards:
    def test_shards_are_exchanged(self):
        rank = dist.get_rank()
        mine, others = torch.arange(2) + 10 * rank, torch.empty(2, dtype=torch.int64)
        dist.all_gather(shards := [others, others.clone()], mine)
        assert torch.cat(shards).tolist() == [0, 1, 10, 11]
