"""Crews: one baton, members that serve many times, and one that keeps it."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time

import pytest

from pytest_elastic.simulator import _crew
from pytest_elastic.simulator._crew import HOME, GreenletCrew, Stuck, ThreadCrew, make_crew

KINDS = pytest.mark.parametrize("kind", [ThreadCrew, GreenletCrew])


@KINDS
def test_members_pass_the_baton(kind):
    """Everybody runs when told to, one at a time, and home gets the last word; twice, by the same members."""
    log = []

    def body(member):
        log.append(f"{member} begins")
        crew.switch(member, 1 - member)
        log.append(f"{member} ends")
        return HOME if member == 1 else 1

    crew = kind(2, body)
    for _ in range(2):
        crew.resume(0)
    crew.close()
    assert log == ["0 begins", "1 begins", "0 ends", "1 ends"] * 2


def test_threads_stay_on_one_processor_while_they_are_a_crew():
    """Hand-overs are cheap there; afterwards the caller may run where it might before."""
    before, places = os.sched_getaffinity(0), []

    def body(member):
        places.append(os.sched_getaffinity(0))
        return HOME

    crew = ThreadCrew(2, body)
    crew.resume(0)
    crew.resume(1)
    crew.close()
    (place,) = {frozenset(place) for place in places}
    assert len(place) == 1
    assert place <= before
    assert os.sched_getaffinity(0) == before


@KINDS
def test_a_member_can_give_home_the_baton_and_get_it_back(kind):
    """Home may send a waiting member on its way."""
    log = []

    def body(member):
        crew.switch(member, HOME)
        log.append(member)
        return HOME

    crew = kind(2, body)
    crew.resume(0)
    crew.resume(1)
    crew.resume(0)
    crew.resume(1)
    crew.close()
    assert log == [0, 1]


@KINDS
def test_who_runs(kind):
    """Only the member itself is the member: neither another one, nor home, nor a thread that it started."""
    seen = []

    def body(member):
        thread = threading.Thread(target=lambda: seen.append(crew.runs(member)))
        thread.start()
        thread.join()
        seen.extend([crew.runs(member), crew.runs(1 - member)])
        return HOME

    crew = kind(2, body)
    crew.resume(1)
    seen.append(crew.runs(1))
    crew.close()
    assert seen == [False, True, False, False]


@KINDS
@pytest.mark.parametrize("how", ["spin", "lock"])
def test_a_member_that_keeps_the_baton(kind, how, monkeypatch):
    """Home hears of it, with the stack, and whoever can be ended is ended."""
    monkeypatch.setattr(_crew, "PATIENCE", 0.2)
    lock = threading.Lock()
    lock.acquire()

    def keep_it(member):
        if how == "lock":
            lock.acquire()
            return HOME
        while True:
            pass

    handler = signal.getsignal(signal.SIGURG)
    crew = kind(2, keep_it)
    with pytest.raises(Stuck) as info:
        crew.resume(1)
    crew.close()
    if lock.locked():
        lock.release()  # Where a thread waits for it, that ends now.
    assert info.value.member == 1
    assert "keep_it" in info.value.stack[-1]
    assert signal.getsignal(signal.SIGURG) is handler


@KINDS
def test_a_member_that_is_slow_is_not_stuck(kind, monkeypatch):
    """As long as members come to scheduling points, nobody is stuck."""
    monkeypatch.setattr(_crew, "PATIENCE", 0.5)

    def body(member):
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            crew.beat += 1
        return HOME

    crew = kind(1, body)
    crew.resume(0)
    crew.close()
    assert crew.beat > 0


def test_greenlets_where_they_are(monkeypatch):
    """Greenlets in the main thread; threads elsewhere, where greenlet is not installed, and where torch is loaded."""
    made = []
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def make():
        crew = make_crew(1, lambda member: HOME)
        made.append(type(crew))
        crew.close()

    make()
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()

    def no_greenlet(name, *arguments, **named):
        if name == "greenlet":
            raise ImportError(name)
        return real_import(name, *arguments, **named)

    real_import = builtins.__import__
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", no_greenlet)
        make()
    monkeypatch.setitem(sys.modules, "torch", sys)
    make()
    assert made == [GreenletCrew, ThreadCrew, ThreadCrew, ThreadCrew]
