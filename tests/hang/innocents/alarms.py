"""Waits that an alarm, a timer of the process or a signal of one's own ends."""

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


def test_a_limit_that_is_not_reached(world):
    if world.rank == 1:
        time.sleep(0.1)
        world.store.set("reply", "1")
    with time_limit(20):
        world.store.wait(["reply"], 30)


@pytest.mark.parametrize("name", ["VIRTUAL", "PROF"])
def test_a_limit_on_time_of_the_processor(world, name):
    """What the rank computes is limited; what the other waits for is done after it."""
    which = getattr(signal, f"ITIMER_{name}")
    number = signal.SIGVTALRM if name == "VIRTUAL" else signal.SIGPROF
    if world.rank == 0:
        with pytest.raises(TooLong), time_limit(0.1, which, number):
            while True:
                sum(range(1000))
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_sigtimedwait_in_a_loop(world):
    """A rank that looks for a signal, and gives up after some looks."""
    if world.rank == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        for _ in range(5):
            assert signal.sigtimedwait({signal.SIGUSR1}, 0.05) is None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_pause_until_the_alarm(world):
    if world.rank == 0:
        former = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        signal.pause()
        signal.signal(signal.SIGALRM, former)
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_sigwait_for_the_alarm(world):
    if world.rank == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert signal.sigwait({signal.SIGALRM}) == signal.SIGALRM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        world.store.set("go", "1")
    world.store.wait(["go"], 30)
