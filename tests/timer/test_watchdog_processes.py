"""A server whose workers are processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from typing import Any

import pytest

from pytest_elastic import pristine
from pytest_elastic.clock import SystemClock
from pytest_elastic.processes import this_process
from pytest_elastic.timer import TimerRequest
from pytest_elastic.timer._requests import Origin
from pytest_elastic.timer._watchdog import ProcessTimerServer

from .queues import SlowQueue, UserQueue, WakingQueue
from .rigs import Started, eventually


def test_all_that_was_sent_is_read_before_a_kill(started: Started) -> None:
    """A release behind 500 requests, in a queue that gives one at a time."""
    with subprocess.Popen(["sleep", "30"]) as rank:
        others = [TimerRequest(rank.pid, str(number), math.inf) for number in range(500)]
        requests = SlowQueue(TimerRequest(rank.pid, "late", 0), *others, TimerRequest(rank.pid, "late", -1))
        server: Any = started(ProcessTimerServer(requests, 60))
        eventually(lambda: not requests.requests)
        time.sleep(0.05)
        server.stop()
        assert len(server.get_expired_timers(math.inf)[rank.pid]) == 500
        rank.kill()


def test_a_request_by_hand_is_for_the_process_of_that_moment() -> None:
    """Which has ended when it expires."""
    server = ProcessTimerServer(UserQueue(), 60)
    with subprocess.Popen(["sleep", "30"]) as process:
        server.register_timers([TimerRequest(process.pid, "scope", 0)])
        assert list(server.get_expired_timers(time.time())) == [process.pid]
        process.kill()
    assert server.get_expired_timers(time.time()) == {}


@pytest.mark.parametrize(
    "request_",
    [
        TimerRequest("1", "scope", 0),
        TimerRequest(True, "scope", 0),
        TimerRequest(1.5, "scope", 0),
        TimerRequest(5, None, 0),  # type: ignore[arg-type]
        TimerRequest(5, "scope", math.nan),
        TimerRequest(5, "scope", "soon"),  # type: ignore[arg-type]
        TimerRequest(5, "scope", 0, origin=Origin(1, 2, math.nan)),
        "no request",
    ],
)
def test_a_bad_request_is_dropped_and_logged(request_: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Those beside it count."""
    server = ProcessTimerServer(UserQueue(), 60)
    good = TimerRequest(os.getpid(), "good", 0)
    server.register_timers([good, request_, good])
    assert server.get_expired_timers(math.inf) == {os.getpid(): [good]}
    assert "was dropped" in caplog.text


def test_what_will_be_expired_at_a_point() -> None:
    """A deadline that is reached counts; on the scale of `time.time()`."""
    server, now = ProcessTimerServer(UserQueue(), 60), time.time()
    early, late = TimerRequest(os.getpid(), "early", now + 50), TimerRequest(os.getpid(), "late", now + 60)
    server.register_timers([late, early])
    points = (now + 49.99, now + 50, now + 59.99, now + 60)
    found = [server.get_expired_timers(point) for point in points]
    assert found == [{}, {os.getpid(): [early]}, {os.getpid(): [early]}, {os.getpid(): [early, late]}]


def test_a_request_by_hand_runs_from_its_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the wall clock afterwards does not move its deadline."""
    server, real = ProcessTimerServer(UserQueue(), 60), time.time
    server.register_timers([TimerRequest(os.getpid(), "scope", real() + 50)])
    for step in (3600, -3600):
        monkeypatch.setattr(SystemClock, "time", lambda self, step=step: real() + step)
        assert server.get_expired_timers(real() + step + 49) == {}
        assert list(server.get_expired_timers(real() + step + 51)) == [os.getpid()]


def test_a_negative_time_is_a_release() -> None:
    """For every thread, where it was made by hand."""
    server = ProcessTimerServer(UserQueue(), 60)
    for thread in (1, 2):
        origin = Origin(this_process().started, thread, 0.0)
        server.register_timers([TimerRequest(os.getpid(), "scope", 0, origin=origin)])
    server.register_timers([TimerRequest(os.getpid(), "scope", -0.5)])
    assert server.get_expired_timers(math.inf) == {}


def test_a_timer_that_is_registered_directly_wakes_the_watchdog(started: Started) -> None:
    """Not by a request in the queue."""
    server: Any = started(ProcessTimerServer(WakingQueue(), 60))
    time.sleep(0.02)
    with subprocess.Popen(["sleep", "30"]) as process:
        server.register_timers([TimerRequest(process.pid, "scope", time.time() + 0.05)])
        assert process.wait(5) == -signal.SIGKILL


def test_a_kill_that_lacked_a_descriptor_is_tried_again(
    started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine may have one again."""
    real, failures = signal.pidfd_send_signal, [OSError(24, "too many open files")]

    def send(descriptor: int, number: int) -> None:
        if failures:
            raise failures.pop()
        real(descriptor, number)

    monkeypatch.setattr(pristine.signal, "pidfd_send_signal", send)
    with subprocess.Popen(["sleep", "30"]) as process:
        started(ProcessTimerServer(WakingQueue(TimerRequest(process.pid, "scope", 0)), 0.01))
        assert process.wait(5) == -signal.SIGKILL
    assert "could not be killed" in caplog.text


def test_a_look_that_fails_is_tried_again_after_the_interval(
    started: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And not at once, for as long as it fails."""
    calls: list[float] = []

    def ended(process: object) -> bool:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise OSError(24, "too many open files")
        return False

    monkeypatch.setattr("pytest_elastic.processes.Process.ended", ended)
    with subprocess.Popen(["sleep", "30"]) as process:
        started(ProcessTimerServer(WakingQueue(TimerRequest(process.pid, "scope", 0)), 0.05))
        assert process.wait(5) == -signal.SIGKILL
    assert calls[2] - calls[0] >= 0.1
    assert "a round of the timer server failed" in caplog.text
