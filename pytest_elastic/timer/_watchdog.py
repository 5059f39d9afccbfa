"""The watchdog that enforces timers, whatever channel their requests come through.

*Theory of operation.*  One thread sleeps until a request can be read, the next deadline is reached, or
`stop()` wakes it; `max_interval` bounds that sleep where the next deadline is not known, or a kill has to be
tried again.  Each round takes the requests that were sent, and looks for expired timers.  If there are any,
it first takes what was sent in the meantime, and looks again: a rank that sent its release before the server
decided to kill it lives, however many requests stood before that one.

The thread holds its server by a weak reference while it sleeps.  A server that nobody holds any more is
collected, and its thread ends.

Where the workers are processes, a request of one of our clients says when its process was started and on
which point of the monotonic clock it expires.  A request that was made by hand counts from its receipt, for
the process that has the pid then.
"""

from __future__ import annotations

import errno
import math
import weakref
from abc import ABC, abstractmethod
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline, to_seconds
from pytest_elastic.pristine import os, select, signal, threading, time
from pytest_elastic.processes import Process, Wakeup, identify
from pytest_elastic.timer._grace import Grace
from pytest_elastic.timer._requests import RequestQueue, TimerRequest, log, to_monotonic
from pytest_elastic.timer._table import Key, Timer, Timers

Expired = dict[Any, list[TimerRequest]]

ASK_EVERY = 0.2
"""Seconds between two looks at a queue that cannot wake the server."""

CATCH_UP = 0.05
"""Seconds to wait for a request that its queue counts but does not show: it is on its way, or was lost."""

STOP_WITHIN = 0.4
"""Seconds that `stop()` waits for a thread that is held up by a queue or a hook."""

READING = 1e-5
"""Seconds that two pairs of clock readings may differ by; a deadline so near has been reached."""


class Run:
    """One run of a watchdog, from `start()` to `stop()`: whether it has ended, and what wakes it."""

    def __init__(self) -> None:
        self.ended = False
        self.thread: threading.Thread | None = None
        self._wakeup = Wakeup()

    def end(self) -> None:
        """Have the thread finish; nobody is killed by it from now on, but for a kill that is under way."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Have the thread look at its timers again."""
        self._wakeup.set()

    def close(self) -> None:
        """Give the descriptor back; the thread's last act."""
        self._wakeup.close()

    def sleep(self, timeout: float, *others: int) -> None:
        """Until `wake()`, or one of the other descriptors is readable, or `timeout` seconds have passed."""
        poll = select.poll()
        for descriptor in (self._wakeup.fileno(), *others):
            poll.register(descriptor, select.POLLIN)
        until = Deadline.after(min(timeout, 3600.0))
        # Poll counts whole milliseconds: it is asked for fewer, and the rest is slept.
        if not poll.poll(int(until.remaining() * 1000)) and until.remaining() < 0.001:
            time.sleep(until.remaining())
        self._wakeup.clear()


class TimerServer(ABC):
    """Base class of timer servers, which kill workers whose timers expired.

    Subclasses keep the timers, and kill a worker in `_reap_worker`.

    All methods may be called from any thread; the hooks are called by the watchdog's.

    Args:
        request_queue: where requests come from.
        max_interval: seconds between two rounds at most, where nothing tells when the next is due.
        daemon: whether the watchdog ends with the process; if not, the process waits for `stop()`.

    Raises:
        ValueError: `max_interval` is not positive.
    """

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        self._max_interval = to_seconds(max_interval, "max_interval")
        if self._max_interval <= 0:
            raise ValueError(f"max_interval must be positive, not {max_interval!r}")
        self._queue, self._daemon = request_queue, daemon
        self._changing = threading.RLock()
        self._run: Run | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._lost = 0

    @abstractmethod
    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Arm and release what the requests say."""

    @abstractmethod
    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Forget all timers of these workers."""

    @abstractmethod
    def get_expired_timers(self, deadline: float) -> Expired:
        """By worker, the requests whose timers will have expired when `time.time()` shows `deadline`."""

    @abstractmethod
    def _reap_worker(self, worker_id: Any) -> bool:
        """Kill it.  `False` means: try again next round; an exception counts as done."""

    def start(self) -> None:
        """Start the watchdog's thread; does nothing if it runs.  Timers that are known are enforced again."""
        with self._changing:
            if self._run is not None and self._run.thread is not None and self._run.thread.is_alive():
                return
            run = self._run = Run()
            self._finalizer = weakref.finalize(self, run.end)
            arguments = (weakref.ref(self), self._queue, run)
            run.thread = threading.Thread(
                target=watch, args=arguments, daemon=self._daemon, name=type(self).__name__
            )
            run.thread.start()

    def stop(self) -> None:
        """End the watchdog within half a second; nobody is killed afterwards, and timers stay known."""
        with self._changing:
            run, self._run = self._run, None
            if run is None or run.thread is None or self._finalizer is None:
                return
            self._finalizer.detach()
            run.end()
            if run.thread is not threading.current_thread():
                run.thread.join(STOP_WITHIN)

    def _round(self, requests: list[TimerRequest], run: Run) -> float:
        """Register, decide, kill; returns the seconds until the next round is due."""
        self._take(requests)
        try:
            now = self._now()
            expired = self._expired(now)
            if expired and self._catch_up():
                expired = self._expired(now)
            reaped = {worker for worker, requests in expired.items() if self._reap(worker, requests, run)}
            if reaped:
                self.clear_timers(reaped)
        except Exception:
            log.exception("a round of the timer server failed")
        return self._pause()

    def _take(self, requests: list[TimerRequest]) -> None:
        if not requests:
            return
        try:
            self.register_timers(requests)
        except Exception:
            for request in requests:  # One of them is bad: the others count.
                try:
                    self.register_timers([request])
                except Exception:
                    log.exception("timer request %r was dropped", request)

    def _now(self) -> float:
        """The present, on the clock that `_expired` goes by."""
        return SYSTEM_CLOCK.time()

    def _expired(self, now: float) -> Expired:
        return self.get_expired_timers(now)

    def _catch_up(self) -> bool:
        """Take what was sent until now; returns whether there was any.

        What a killed rank had announced and never sent is waited for once.
        """
        size = self._queue.size()
        self._lost = min(self._lost, size)
        wanted = missing = size - self._lost
        while missing > 0:
            requests = self._queue.get(missing, CATCH_UP)
            if not requests:
                break
            self._take(requests)
            missing -= len(requests)
        self._lost += max(0, missing)
        return missing < wanted

    def _reap(self, worker_id: Any, requests: list[TimerRequest], run: Run) -> bool:
        if run.ended:
            return False
        scopes = [request.scope_id for request in requests]
        log.info("worker %s did not leave %s in time: it is killed", worker_id, scopes)
        try:
            if self._reap_worker(worker_id):
                return True
            log.error("worker %s could not be killed; it is tried again", worker_id)
            return False
        except Exception:
            log.exception("killing worker %s failed", worker_id)
            return True

    def _pause(self) -> float:
        """Seconds until something is to be done that no request announces."""
        return self._max_interval


def watch(reference: weakref.ref[TimerServer], queue: RequestQueue, run: Run) -> None:
    """The watchdog's thread: rounds until the run or the server ends."""
    pause = 0.0
    while not run.ended:
        requests = receive(queue, run, pause)
        server = reference()
        if server is None:
            break
        pause = server._round(requests, run)
        del server  # Or it could not be collected while this thread sleeps.
    run.close()


def receive(queue: RequestQueue, run: Run, timeout: float) -> list[TimerRequest]:
    """Sleep up to `timeout` seconds, or until requests come, and take them."""
    try:
        descriptor = descriptor_of(queue)
        if descriptor is None:
            return queue.get(max(1, queue.size()), min(timeout, ASK_EVERY))
        run.sleep(timeout, descriptor)
        # All that were counted, and no others: one that is left behind does not wake anybody.
        size = queue.size()
        return queue.get(size, 0) if size else []
    except Exception:
        log.exception("the timer server cannot read its requests")
        run.sleep(min(timeout, 1.0))
        return []


def descriptor_of(queue: RequestQueue) -> int | None:
    """The descriptor that is readable while a queue has requests; `None` if it has no descriptor."""
    try:
        return int(queue.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None


class ProcessTimerServer(TimerServer):
    """Base class of timer servers whose workers are processes of this machine, by process id."""

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        super().__init__(request_queue, max_interval, daemon)
        self._timers: Timers[TimerRequest] = Timers()
        self._decided, self._grace = -math.inf, Grace()
        self._due: list[Timer[TimerRequest]] = []

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        for request in timer_requests:
            try:
                key, timer = read_request(request)
                if timer is None:
                    self._timers.disarm(key)
                else:
                    self._timers.arm(timer)
            except (AttributeError, TypeError, ValueError) as error:
                log.warning("timer request %r was dropped: %s", request, str(error))
        run = self._run
        if run is not None and run.thread is not threading.current_thread():
            run.wake()

    def clear_timers(self, worker_ids: set[Any]) -> None:
        for worker in worker_ids:
            self._timers.drop(worker)

    def get_expired_timers(self, deadline: float) -> Expired:
        return by_worker(self._timers.expired(to_monotonic(deadline) + READING))

    def _now(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    def _expired(self, now: float) -> Expired:
        self._decided = now  # First: what fails below is tried again as what is overdue.
        self._due = self._timers.expired(now)
        if self._due and not self._grace.over(now):
            self._decided, self._due = -math.inf, []
        return by_worker(self._due)

    def _pause(self) -> float:
        deadline = self._timers.next_deadline(self._decided)
        pause = Deadline(self._grace.plan(deadline, SYSTEM_CLOCK.monotonic())).remaining()
        # What was due and is still there could not be killed: that is tried again.
        overdue = any(timer.deadline <= self._decided for timer in self._timers.armed())
        return min(pause, self._max_interval) if overdue else pause

    def _reap_worker(self, worker_id: Any) -> bool:
        for timer in self._due:
            if timer.key.owner == worker_id and (number := self._signal(timer.what)) > 0:
                return self._send(timer, number)
        log.warning("no timer of worker %s has a signal: they are dropped", worker_id)
        return True

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


def read_request(request: TimerRequest) -> tuple[Key, Timer[TimerRequest] | None]:
    """The key of a request for a process of this machine, and its timer; no timer if it is a release.

    Raises:
        TypeError, ValueError: its fields are of other types, or NaN.
    """
    pid, until, origin = request.worker_id, request.expiration_time, request.origin
    if type(pid) is not int or not isinstance(request.scope_id, str):
        raise TypeError("the worker is a process id, and the scope a text")
    key = Key(pid, pid, origin.thread if origin else 0, request.scope_id)
    if to_seconds(until, "expiration_time") < 0:
        return key, None
    if origin:
        return key, Timer(key, Process(pid, origin.started), to_seconds(origin.deadline, "deadline"), request)
    return key, Timer(key, identify(pid), to_monotonic(until), request)


def by_worker(timers: list[Timer[TimerRequest]]) -> Expired:
    """The requests of these timers, by worker."""
    found: Expired = {}
    for timer in timers:
        found.setdefault(timer.key.owner, []).append(timer.what)
    return found
