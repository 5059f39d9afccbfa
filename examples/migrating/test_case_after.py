"""A test case on ranks: it only says how many.  `test_case_before.py` started its processes itself."""

import pytest

dist = pytest.importorskip("torch.distributed")


@pytest.mark.elastic(nprocs=2)
class TestObjects:
    @pytest.fixture(autouse=True)
    def begin(self, process_group, rank, world_size):
        self.rank, self.world_size = rank, world_size

    def test_objects_are_gathered_in_the_order_of_ranks(self):
        found = [None] * self.world_size
        dist.all_gather_object(found, {"rank": self.rank})
        assert found == [{"rank": 0}, {"rank": 1}]
