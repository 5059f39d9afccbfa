"""Three ranks in the simulator, which tries their schedules without processes and without waiting."""

import pytest
from hypothesis import given, settings

from pytest_elastic.simulator import HangUntilTimeout, explore, prove, replay, simulate
from pytest_elastic.store import barrier
from pytest_elastic.strategies import schedules


def exchange(rank, world_size, store):
    barrier(store, world_size, "before")
    store.set(f"x{rank}", "1")
    barrier(store, world_size, "after")
    assert store.check([f"x{r}" for r in range(world_size)])


def count_by_hand(rank, world_size, store):
    """A handwritten barrier, with a race: read, add one, write."""
    count = (int(store.get("count")) if store.check(["count"]) else 0) + 1
    store.set("count", str(count))
    if count == world_size:
        store.set("go", "1")
    store.wait(["go"])


def test_no_schedule_breaks_it():
    certificate = prove(exchange, ranks=3)
    assert str(certificate).startswith("all 9 traces of 3 ranks")


def test_some_schedule_breaks_it():
    with pytest.raises(HangUntilTimeout) as info:
        explore(count_by_hand, ranks=3)
    print(info.value, *info.value.__notes__, sep="\n")


def test_this_schedule_breaks_it_for_ever():
    """One decision by default, then another rank: both have read before one has written."""
    with pytest.raises(HangUntilTimeout):
        replay(count_by_hand, "E1.3.l.1-1")


@settings(max_examples=50, deadline=None)
@given(schedule=schedules(ranks=4))
def test_a_property_of_every_schedule(schedule):
    assert simulate(exchange, schedule).check().now == 0.0
