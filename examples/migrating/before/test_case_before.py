"""A test case of torch, which starts its processes itself.  `test_case_after.py` is the same on ranks."""

import os

import pytest

dist = pytest.importorskip("torch.distributed")
cases = pytest.importorskip("torch.testing._internal.common_distributed", reason="this needs expecttest")


class TestObjects(cases.MultiProcessTestCase):
    world_size = 2

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def tearDown(self):
        super().tearDown()
        if os.path.exists(self.file_name):
            os.remove(self.file_name)

    def begin(self):
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)

    def test_objects_are_gathered_in_the_order_of_ranks(self):
        self.begin()
        found = [None] * self.world_size
        dist.all_gather_object(found, {"rank": self.rank})
        assert found == [{"rank": 0}, {"rank": 1}]
