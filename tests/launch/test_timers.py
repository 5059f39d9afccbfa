"""The timers of a group, in the group's loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_elastic.launch._timers import GroupTimers, describe_expiry
from pytest_elastic.loop import Loop
from pytest_elastic.timer import PipeTimerClient, TimerTable, expires

PATIENCE = 20.0


class Ranks:
    """The timers of two ranks, and the ranks' ends."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.loop.start()
        self.timers = GroupTimers(self.loop, self.expire)
        self.ends = [self.timers.open(rank) for rank in (0, 1)]
        self.expired: list[int] = []
        self.seen = threading.Event()

    def arm(self, rank: int, span: float) -> None:
        client = PipeTimerClient(self.ends[rank])
        expires(span, scope="exchange", client=client).__enter__()

    def expire(self, ranks: list[int]) -> None:
        self.expired += ranks
        self.seen.set()

    def close(self) -> None:
        self.timers.close()
        self.timers.close()
        self.loop.close()
        for end in self.ends:
            os.close(end)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Both of them."""
    made = Ranks()
    yield made
    made.close()


def test_a_timer_that_is_not_released_expires(ranks):
    """Whoever waits or not; one that has time left does not."""
    ranks.arm(0, 50)
    ranks.arm(1, 0.05)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.expired == [1]
    assert describe_expiry(ranks.timers.expiries[1]).startswith('timer "exchange" (test_timers.py:')
    assert ranks.loop.call(ranks.timers.next_deadline) - time.monotonic() <= 50


def test_standing_still(ranks):
    """Nothing expires inside, nested or not; the rest of the span counts from the end of the outer one."""
    ranks.arm(0, 0.2)
    with ranks.timers.standing_still():
        with ranks.timers.standing_still():
            pass
        assert not ranks.seen.wait(0.4)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.timers.paused >= 0.4


def test_a_rank_that_has_gone(ranks, monkeypatch):
    """Its channel wakes the loop once, not for ever; the others' timers go on."""
    reads = []
    read = TimerTable.read
    monkeypatch.setattr(TimerTable, "read", lambda table, rank: (reads.append(rank), read(table, rank))[1])
    os.close(ranks.ends.pop())
    deadline = time.monotonic() + PATIENCE
    while not reads:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    ranks.arm(0, 0.05)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.expired == [0]
    assert len(reads) < 10


def test_disarmed(ranks):
    """What is armed is forgotten."""
    with ranks.timers.standing_still():
        ranks.arm(0, 0)
        ranks.timers.disarm()
    ranks.arm(1, 0)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.expired == [1]
