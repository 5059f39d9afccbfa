"""Controller style: the test runs in pytest and runs functions on ranks."""

import time

import pytest

from pytest_elastic.launch import current_world
from pytest_elastic.multiprocessing.errors import ChildFailedError


def test_results_in_rank_order(elastic):
    factor = 3
    assert elastic.run(lambda rank, world_size: rank * factor, nprocs=4) == [0, 3, 6, 9]


def test_every_failed_rank_is_named(elastic):
    def odd_ones_fail(rank, world_size):
        if rank % 2:
            raise ValueError(f"rank {rank} is odd")

    with pytest.raises(ChildFailedError) as caught:
        elastic.run(odd_ones_fail, nprocs=4)
    assert sorted(caught.value.failures) == [1, 3]


def test_a_lost_peer(elastic):
    def work(rank, world_size):
        current_world().store.set(f"up/{rank}", "1")
        time.sleep(100)

    group = elastic.start(work, nprocs=3)
    group.store.wait([f"up/{rank}" for rank in range(3)])
    group.kill(1)
    result = group.wait(timeout=10, period=0.1)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: -9}
    assert sorted(result.stopped) == [0, 2]
