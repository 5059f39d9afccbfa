"""The timers of a group, in the loop that waits or in a thread of their own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.launch._timers import GroupTimers, describe_expiry
from pytest_elastic.timer import PipeTimerClient, expires

PATIENCE = 20.0


class Ranks:
    """The timers of two ranks, and the ranks' ends."""

    def __init__(self) -> None:
        self.timers = GroupTimers()
        self.ends = [self.timers.open(rank) for rank in (0, 1)]
        self.expired: list[int] = []
        self.seen = threading.Event()

    def arm(self, rank: int, span: float) -> None:
        client = PipeTimerClient(self.ends[rank])
        expires(span, scope="exchange", client=client).__enter__()

    def expire(self) -> None:
        self.expired += self.timers.expired()
        if self.expired:
            self.seen.set()

    def close(self) -> None:
        self.timers.close()
        self.timers.close()
        for end in self.ends:
            os.close(end)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Both of them."""
    made = Ranks()
    yield made
    made.close()


def test_in_the_loop_that_waits(ranks):
    """It polls the channels, and knows when to look."""
    assert len(ranks.timers.descriptors()) == 2
    ranks.arm(1, 0)
    ranks.expire()
    assert ranks.expired == [1]
    assert describe_expiry(ranks.timers.expiries[1]).startswith('timer "exchange" (test_timers.py:')
    ranks.arm(0, 50)
    ranks.expire()
    assert ranks.timers.sooner(Deadline.after(None)).remaining() <= 50


def test_in_a_thread(ranks):
    """The loop is spared both; what expires is seen by nobody else's doing."""
    ranks.timers.watch(ranks.expire)
    assert (ranks.timers.descriptors(), ranks.timers.sooner(Deadline.after(None)).at) == ([], float("inf"))
    ranks.arm(0, 50)
    ranks.arm(1, 0.05)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.expired == [1]


def test_standing_still(ranks):
    """Nothing expires inside, nested or not; the rest of the span counts from the end of the outer one."""
    ranks.timers.watch(ranks.expire)
    ranks.arm(0, 0.2)
    with ranks.timers.standing_still():
        with ranks.timers.standing_still():
            pass
        assert not ranks.seen.wait(0.4)
    assert ranks.seen.wait(PATIENCE)
    assert ranks.timers.paused >= 0.4


def test_a_rank_that_has_gone(ranks):
    """Its channel wakes the thread once, not for ever."""
    rounds = []
    ranks.timers.watch(lambda: (rounds.append(1), ranks.expire()))
    os.close(ranks.ends.pop())
    deadline = time.monotonic() + PATIENCE
    while len(ranks.timers.channels()) == 2:
        assert time.monotonic() < deadline
    ranks.arm(0, 0)
    assert ranks.seen.wait(PATIENCE)
    assert len(rounds) < 10


def test_disarmed(ranks):
    """What is armed is forgotten."""
    ranks.arm(0, 0)
    ranks.timers.disarm()
    ranks.expire()
    assert ranks.expired == []
