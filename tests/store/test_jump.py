"""A server's clock that jumps: waits end at once, as if their time had passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError
from pytest_elastic.events import Event, WaitBegan, WaitEnded
from pytest_elastic.store import StoreServer, barrier
from pytest_elastic.store._wire import REQUESTS

_SET = REQUESTS["set"].pack(("k", b"1"))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def jumper(events: list[Event]) -> Iterator[StoreServer]:
    """A server that is told to jump, and tells what happens."""
    with StoreServer(sink=events.append) as server:
        yield server


def blocked(events: list[Event], number: int) -> bool:
    return sum(isinstance(event, WaitBegan) for event in list(events)) == number


def test_a_wait_ends_at_once_as_if_its_time_had_passed(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """Its error has the text, the timeout and the time of a real one."""
    store, began = jumper.store(0), SYSTEM_CLOCK.monotonic()
    threads.start(lambda: store.wait(["a"], 300))
    wait_for(lambda: blocked(events, 1))
    jumper.loop.post(jumper.jump)
    (error,) = threads.join()
    assert type(error) is DistStoreError
    assert (error.timeout, round(error.elapsed), str(error)[:32]) == (
        300,
        300,
        "Wait timeout after 300000 ms, mi",
    )
    assert SYSTEM_CLOCK.monotonic() - began < 30
    assert [event.how for event in events if isinstance(event, WaitEnded)] == ["jumped"]
    store.close()


def test_the_earliest_deadline_comes_first(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """And the time that has passed is everybody's: the later wait has only its difference left."""
    first, second = jumper.store(0), jumper.store(1)
    long = threads.start(lambda: second.wait(["a"], 1000))
    wait_for(lambda: blocked(events, 1))
    threads.start(lambda: first.wait(["a"], 300))
    wait_for(lambda: blocked(events, 2))
    jumper.loop.post(jumper.jump)
    wait_for(lambda: any(isinstance(event, WaitEnded) for event in list(events)))
    assert [event.rank for event in events if isinstance(event, WaitEnded)] == [0]
    jumper.loop.post(jumper.jump)
    errors = threads.join()
    assert 1000 <= errors[long].elapsed < 1000 + 30
    for store in (first, second):
        store.close()


def test_others_are_spared_for_a_moment(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """What the first one does when its time was over decides, and not how fast the machine is."""
    first, second = jumper.store(0), jumper.store(1)

    def work() -> None:
        with pytest.raises(DistStoreError):
            first.wait(["a"], 300)
        time.sleep(0.1)
        first.set("b", "1")

    threads.start(work)
    wait_for(lambda: blocked(events, 1))
    number = threads.start(lambda: second.wait(["b"], 300.001))
    wait_for(lambda: blocked(events, 2))
    jumper.loop.post(jumper.jump)
    assert threads.join()[number] is None
    for store in (first, second):
        store.close()


def test_a_wait_that_begins_after_a_jump_has_its_whole_time(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """What is set in time is in time."""
    store, other = jumper.store(0), jumper.store(1)
    threads.start(lambda: store.wait(["a"], 300))
    wait_for(lambda: blocked(events, 1))
    jumper.loop.post(jumper.jump)
    threads.join()
    number = threads.start(lambda: store.get("b"))
    wait_for(lambda: len(events) >= 3 and blocked(events, 2))
    other.set("b", "1")
    assert threads.join()[number] == b"1"
    for one in (store, other):
        one.close()


def test_without_a_wait_nothing_jumps(jumper: StoreServer) -> None:
    """A jump to no deadline is none."""
    done = threading.Event()
    jumper.loop.post(jumper.jump)
    jumper.loop.post(done.set)
    assert done.wait(30)
    assert jumper._service.clock.ahead == 0.0


def test_a_barrier_says_how_long_it_took(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """By the clock that has jumped, in its own wait and in those for the missing ranks."""
    store = jumper.store(0)
    threads.start(lambda: barrier(store, 3, "epoch", 300, rank=0, trace_timeout=10))
    for number in (1, 2):
        wait_for(lambda number=number: blocked(events, number))
        jumper.loop.post(jumper.jump)
    (error,) = threads.join()
    assert (error.missing_ranks, error.arrived_ranks) == ([1, 2], [0])
    assert 310 <= error.elapsed < 340
    store.close()


def test_settled_is_when_all_that_arrived_is_served(jumper: StoreServer, events: list[Event]) -> None:
    """A request that lies in a socket when it is asked is taken up before."""
    store, done, seen = jumper.store(0), threading.Event(), []

    def answer() -> None:
        seen.extend(type(event).__name__ for event in events)
        done.set()

    store.set("warm", "1")
    line = store._lines.mine()
    jumper.loop.post(lambda: (events.clear(), line._end.sendall(_SET), jumper.loop.settle(answer)))
    assert done.wait(30)
    assert seen == ["StoreCalled"]
    line._end.recv(100)
    store.close()


def test_who_looks_is_told_of_waits_that_have_just_timed_out(
    jumper: StoreServer, events: list[Event], threads: Any, wait_for: Any
) -> None:
    """Though the sink wants to hear of two blocked requests only: the rank of the other is at work again."""
    store, done, seen = jumper.store(0), threading.Event(), []
    threads.start(lambda: store.wait(["a"], 0.2))
    wait_for(lambda: blocked(events, 1))

    def answer() -> None:
        jumper.tell()
        seen.extend(event.how for event in events if isinstance(event, WaitEnded))
        done.set()

    def sleep() -> None:
        """Through the deadline, which is found over in the round in which `answer` is called."""
        jumper.tell_when(2)
        time.sleep(0.3)
        jumper.loop.settle(answer)

    jumper.loop.post(lambda: jumper.loop.settle(sleep))
    assert done.wait(30)
    assert seen == ["timed out"]
    assert type(threads.join()[0]) is DistStoreError
    store.close()
