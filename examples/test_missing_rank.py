"""Barriers: one that a rank never reaches, since it dies, and one that a rank reaches late."""

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.faults import delay, kill


@pytest.mark.elastic(nprocs=4, faults=kill(rank=1, barrier="epoch"))
def test_survivors_know_who_is_missing(world):
    if world.rank == 1:
        world.barrier("epoch")
        pytest.fail("it was killed before it could arrive")
    with pytest.raises(DistStoreError) as caught:
        world.barrier("epoch", timeout=5)
    assert caught.value.missing_ranks == [1]


@pytest.mark.elastic(nprocs=4, faults=delay(rank=2, barrier="epoch", by=0.2))
def test_a_straggler_is_waited_for(world):
    world.barrier("epoch", timeout=30)
