"""Which timers there are."""

from __future__ import annotations

import math
import os
import subprocess

import pytest

from pytest_elastic.processes import Process, identify, this_process
from pytest_elastic.timer._table import Key, Timer, Timers


def timer(
    scope: str, deadline: float, owner: int = 1, thread: int = 1, process: Process | None = None
) -> Timer[str]:
    """A timer whose request is a text that tells it apart."""
    return Timer(
        Key(owner, owner, thread, scope), process, deadline, f"{owner}.{thread}.{scope}@{deadline:g}"
    )


@pytest.fixture
def timers() -> Timers[str]:
    return Timers()


def whats(timers: Timers[str], at: float) -> list[str]:
    """What has expired then."""
    return [found.what for found in timers.expired(at)]


def test_a_timer_expires_when_its_deadline_is_reached(timers: Timers[str]) -> None:
    timers.arm(timer("a", 5.0))
    assert whats(timers, 4.999) == []
    assert whats(timers, 5.0) == ["1.1.a@5"]


def test_arming_again_replaces_the_deadline(timers: Timers[str]) -> None:
    """And the first release disarms."""
    timers.arm(timer("a", 5.0))
    timers.arm(timer("a", 9.0))
    assert whats(timers, 5.0) == []
    timers.disarm(timer("a", 0).key)
    assert len(timers) == 0


def test_scopes_are_different_timers(timers: Timers[str]) -> None:
    """The earliest comes first, and releasing one leaves the others."""
    timers.arm(timer("a", 7.0))
    timers.arm(timer("b", 5.0))
    timers.arm(timer("c", 6.0))
    timers.disarm(timer("c", 0).key)
    assert whats(timers, 10) == ["1.1.b@5", "1.1.a@7"]


def test_threads_and_owners_have_timers_of_their_own(timers: Timers[str]) -> None:
    timers.arm(timer("a", 5.0, thread=1))
    timers.arm(timer("a", 6.0, thread=2))
    timers.arm(timer("a", 7.0, owner=2))
    timers.disarm(timer("a", 0, thread=2).key)
    assert whats(timers, 10) == ["1.1.a@5", "2.1.a@7"]


def test_a_release_without_a_thread_is_for_all(timers: Timers[str]) -> None:
    """One that was made by hand does not say its thread."""
    for thread in (1, 2):
        timers.arm(timer("a", 5.0, thread=thread))
    timers.arm(timer("b", 5.0))
    timers.disarm(timer("a", 0, thread=0).key)
    assert whats(timers, 10) == ["1.1.b@5"]


def test_releasing_what_is_not_there_does_nothing(timers: Timers[str]) -> None:
    timers.disarm(timer("a", 0).key)
    timers.drop(7)
    assert len(timers) == 0


def test_an_owner_loses_all_its_timers(timers: Timers[str]) -> None:
    for scope in "ab":
        timers.arm(timer(scope, 5.0))
    timers.arm(timer("a", 5.0, owner=2))
    timers.drop(1)
    assert whats(timers, 10) == ["2.1.a@5"]


def test_an_infinite_deadline_is_never_reached(timers: Timers[str]) -> None:
    timers.arm(timer("a", math.inf))
    assert whats(timers, 1e300) == []
    assert math.inf == timers.next_deadline()


def test_the_next_deadline_is_the_earliest_after_a_point(timers: Timers[str]) -> None:
    """What was due at that point is not waited for again."""
    assert math.inf == timers.next_deadline()
    for scope, deadline in (("a", 7.0), ("b", 5.0), ("c", 6.0)):
        timers.arm(timer(scope, deadline))
    assert [5.0, 6.0, 7.0, math.inf] == [timers.next_deadline(after) for after in (4.0, 5.0, 6.5, 7.0)]


def test_timers_of_an_ended_process_are_forgotten(timers: Timers[str]) -> None:
    """Those of a live one, and of a number that never was one, stay."""
    with subprocess.Popen(["sleep", "30"]) as sleeper:
        timers.arm(timer("ended", 5.0, process=identify(sleeper.pid)))
        sleeper.kill()
    timers.arm(timer("mine", 6.0, process=this_process()))
    timers.arm(timer("nobody", 7.0))
    assert whats(timers, 10) == ["1.1.mine@6", "1.1.nobody@7"]
    assert len(timers) == 2


def test_the_table_does_not_grow_with_the_processes_that_ended(timers: Timers[str]) -> None:
    """Though their deadlines never come."""
    ended = Process(os.getpid(), 1)
    for number in range(1000):
        timers.arm(timer(str(number), math.inf, process=ended))
    assert len(timers) <= 65
