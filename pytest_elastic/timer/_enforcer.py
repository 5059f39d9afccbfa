"""The server whose workers are processes: which of them a timer's expiry signals, and which it does not.

A request that one of our clients made says when its process was started and on which point of the monotonic
clock it expires.  One that was made by hand counts from its receipt, for the process that has the pid then.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Hashable
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline, to_seconds
from pytest_elastic.pristine import os, signal, threading
from pytest_elastic.processes import Process, identify
from pytest_elastic.timer._api import RequestQueue, TimerRequest, log, to_monotonic
from pytest_elastic.timer._server import Expired, TimerServer
from pytest_elastic.timer._table import Key, Timer, Timers

READING = 1e-5
"""Seconds that two pairs of clock readings may differ by; a deadline so near has been reached."""


class ProcessTimerServer(TimerServer):
    """A server whose workers are processes of this machine, by their process ids."""

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        super().__init__(request_queue, max_interval, daemon)
        self._timers: Timers[TimerRequest] = Timers()
        self._decided = -math.inf
        self._due: list[Timer[TimerRequest]] = []

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        for request in timer_requests:
            try:
                self._register(request)
            except (AttributeError, TypeError, ValueError) as error:
                log.warning("timer request %r was dropped: %s", request, str(error))
        run = self._run
        if run is not None and run.thread is not threading.current_thread():
            run.wake()

    def clear_timers(self, worker_ids: set[Any]) -> None:
        for worker in worker_ids:
            self._timers.drop(worker)

    def get_expired_timers(self, deadline: float) -> Expired:
        return _by_worker(self._timers.expired(to_monotonic(deadline) + READING))

    def _register(self, request: TimerRequest) -> None:
        pid, until, origin = request.worker_id, request.expiration_time, request.origin
        if type(pid) is not int or not isinstance(request.scope_id, str):
            raise TypeError("the worker is a process id, and the scope a text")
        key = Key(pid, pid, origin.thread if origin else 0, request.scope_id)
        if to_seconds(until, "expiration_time") < 0:
            self._timers.disarm(key)
        elif origin:
            deadline = to_seconds(origin.deadline, "deadline")
            self._timers.arm(Timer(key, Process(pid, origin.started), deadline, request))
        else:
            self._timers.arm(Timer(key, identify(pid), to_monotonic(until), request))

    def _now(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    def _expired(self, now: float) -> Expired:
        self._decided = now  # First: what fails below is tried again as what is overdue.
        self._due = self._timers.expired(now)
        return _by_worker(self._due)

    def _pause(self) -> float:
        pause = Deadline(self._timers.next_deadline(self._decided)).remaining()
        # What was due and is still there could not be killed: that is tried again.
        overdue = any(timer.deadline <= self._decided for timer in self._timers.armed())
        return min(pause, self._max_interval) if overdue else pause

    def _reap_worker(self, worker_id: Any) -> bool:
        for timer in self._due_of(worker_id):
            number = self._signal(timer.what)
            if number > 0:
                return self._send(timer, number)
        log.warning("no timer of worker %s has a signal: they are dropped", worker_id)
        return True

    def _due_of(self, worker_id: Hashable) -> list[Timer[TimerRequest]]:
        return [timer for timer in self._due if timer.key.owner == worker_id]

    def _send(self, timer: Timer[TimerRequest], number: int) -> bool:
        try:
            if timer.process is None:
                raise ProcessLookupError(f"there was no process {timer.key.pid} to be timed")
            timer.process.signal(number, user=os.getuid())
        except OSError as error:
            log.warning("worker %s is not signalled: %s", timer.key.owner, str(error))
            return error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
        self._signalled(timer.what)
        return True

    def _signal(self, request: TimerRequest) -> int:
        """What to send when this timer expires; none if it is not positive."""
        return signal.SIGKILL

    def _signalled(self, request: TimerRequest) -> None:
        """The timer's signal was sent."""


def _by_worker(timers: list[Timer[TimerRequest]]) -> Expired:
    found: Expired = {}
    for timer in timers:
        found.setdefault(timer.key.owner, []).append(timer.what)
    return found
