"""Time, chance and identity are the simulation's inside of a rank, and everybody else's outside."""

from __future__ import annotations

import random
import threading
import time
import uuid

import pytest

from pytest_elastic.simulator import simulate
from pytest_elastic.simulator._patches import installed
from pytest_elastic.timer import TimerClient, configure, configured, expires


def alone(function, **named):
    return simulate(lambda rank, world_size, store: function(), ranks=1, **named).check().results[0]


@pytest.mark.parametrize("name", ["time", "monotonic", "perf_counter"])
def test_clocks(name, crew):
    """All clocks show virtual time, in seconds and nanoseconds."""

    def read():
        time.sleep(1.5)
        return getattr(time, name)(), getattr(time, f"{name}_ns")()

    assert alone(read) == (1.5, 1_500_000_000)


def test_a_negative_sleep():
    """As outside, it is refused."""

    def sleep():
        with pytest.raises(ValueError, match="non-negative"):
            time.sleep(-1)

    alone(sleep)


def test_chance_is_the_ranks_own(crew):
    """Each rank has numbers of its own, the same in every run, whatever the others draw."""

    def draw(rank, world_size, store):
        if rank == 1:
            random.seed(7)
        first = random.random()
        store.add("n", 1)
        return (
            first,
            random.randint(0, 10**9),
            random.sample(range(100), 3),
            uuid.uuid4(),
            uuid.uuid1().version,
        )

    once = simulate(draw, ranks=3).check().results
    again = simulate(draw, "E1.3.l.0-2.0-1").check().results
    assert once == again
    assert len({first for first, *_ in once}) == 3
    assert once[1][0] == random.Random(7).random()
    assert once[0][3].version == 4
    assert once[0][4] == 1


def test_outside_all_is_as_it_was():
    """What a test or its threads call meanwhile, and afterwards, is the real thing."""
    before = {name: vars(random)[name] for name in ("random", "seed", "choice")}
    clocks = time.time, time.sleep, time.monotonic_ns, uuid.uuid4, configured()
    state = random.getstate()
    seen = []

    def work():
        thread = threading.Thread(target=lambda: seen.append(time.monotonic()))
        thread.start()
        thread.join()
        random.random()
        return time.monotonic()

    started = time.monotonic()
    assert alone(work) == 0.0
    assert seen[0] >= started
    assert {name: vars(random)[name] for name in before} == before
    assert (time.time, time.sleep, time.monotonic_ns, uuid.uuid4, configured()) == clocks
    assert random.getstate() == state


def test_an_error_restores_too():
    """Whatever happens inside."""
    real = time.time
    with pytest.raises(ZeroDivisionError):
        with installed(lambda: None):
            assert time.time is not real
            assert abs(time.time() - real()) < 60
            assert 0 <= random.random() < 1
            assert uuid.uuid4() != uuid.uuid4()
            raise ZeroDivisionError
    assert time.time is real


class Clients(TimerClient):
    """Notes what it is asked."""

    def __init__(self):
        self.asked = []

    def acquire(self, scope_id, expiration_time):
        self.asked.append(f"acquire {scope_id}")

    def release(self, scope_id):
        self.asked.append(f"release {scope_id}")


def test_timers_of_others():
    """A thread that is no rank arms its timers where it always did."""
    client, before = Clients(), configured()
    configure(client)
    try:
        with installed(lambda: None), expires(after=1, scope="mine"):
            pass
    finally:
        configure(before)
    assert client.asked == ["acquire mine", "release mine"]


def test_timers_of_others_without_a_client():
    """The error is the usual one."""
    before = configured()
    configure(None)
    try:
        with installed(lambda: None), pytest.raises(RuntimeError, match="Configure timer client"):
            with expires(after=1):
                pass
    finally:
        configure(before)
