"""Waits that an alarm ends while every rank waits in the store."""

import signal
import time

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


class TooLong(Exception):
    pass


class time_limit:
    """The block that everybody writes."""

    def __init__(self, seconds, which=signal.ITIMER_REAL, number=signal.SIGALRM):
        self.seconds, self.which, self.number = seconds, which, number

    def __enter__(self):
        self.former = signal.signal(self.number, self._raise)
        signal.setitimer(self.which, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(self.which, 0)
        signal.signal(self.number, self.former)

    @staticmethod
    def _raise(*_):
        raise TooLong


def test_a_limit_on_a_wait(world):
    if world.rank == 0:
        with pytest.raises(TooLong), time_limit(0.5):
            world.store.wait(["reply"], 60)
        world.store.set("go", "fallback")
    assert world.store.get("go") == b"fallback"


def test_a_limit_on_a_get(world):
    if world.rank == 0:
        with pytest.raises(TooLong), time_limit(0.3):
            world.store.get("reply")
        world.store.set("go", "fallback")
    assert world.store.get("go") == b"fallback"


def test_a_limit_on_a_barrier_on_all_ranks(world):
    """One barrier less is called by rank 1, which all have counted on."""
    if world.rank == 0:
        with pytest.raises(TooLong), time_limit(0.3):
            world.barrier("optional", timeout=60)
    world.barrier("end")


def test_a_limit_on_every_rank(world):
    with pytest.raises(TooLong), time_limit(0.3):
        world.store.wait(["nobody"], 60)
    world.barrier()


def test_an_alarm_of_whole_seconds(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGALRM, time_limit._raise)
        signal.alarm(1)
        with pytest.raises(TooLong):
            world.store.wait(["reply"], 60)
        signal.signal(signal.SIGALRM, former)
        world.store.set("go", "fallback")
    assert world.store.get("go") == b"fallback"


def test_an_alarm_that_sets_the_key(world):
    """The handler returns, and the wait that it came into goes on."""
    if world.rank == 0:
        former = signal.signal(signal.SIGALRM, lambda *_: world.store.set("go", "alarm"))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        world.store.wait(["ack"], 30)
        signal.signal(signal.SIGALRM, former)
    else:
        assert world.store.get("go") == b"alarm"
        world.store.set("ack", "1")


def test_an_alarm_that_rings_again_and_again(world):
    """The third ring sets the key."""
    rings = []

    def ring(*_):
        rings.append(1)
        if len(rings) == 3:
            world.store.set(f"go/{world.rank}", "1")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    world.store.wait(["go/0", "go/1"], 30)
    while len(rings) < 3:
        time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def test_limits_within_limits(world):
    """The inner one is caught, the outer one is armed anew."""
    if world.rank == 0:
        with pytest.raises(TooLong), time_limit(0.2):
            world.store.wait(["first"], 60)
        with pytest.raises(TooLong), time_limit(0.2):
            world.store.wait(["second"], 60)
        world.store.set("go", "fallback")
    assert world.store.get("go") == b"fallback"
