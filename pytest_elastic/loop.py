"""Event loop of one thread: descriptors, alarms, and calls from other threads.

*Theory of operation.*  What is registered in a loop is touched by one thread at a time, and needs no locks:
by the loop's own thread once it was started, else by whoever waits.  Other threads use two doors: `call` runs
a function in the loop and returns its result, `wait` blocks until a predicate holds there.  Both are made of
one deque (whose operations are atomic), one wake-up socket and one lock for each caller, which the loop
releases: a signal's handler that raises in the middle of them, or calls them again, leaves nothing locked.

A loop that has ended runs what it is asked for in the thread that asks: nobody else is there.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar, cast

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.pristine import os, select, selectors, socket, threading

_CLOSING_TIME = 1.0
_LONGEST = 86_400.0
_SLICE = 0.1  # Seconds after which a thread looks again for what another one has done meanwhile.

Act = Callable[[], object]
T = TypeVar("T")


class Member(Protocol):
    """Something with moments of its own, which a loop drives; its descriptors are in the loop's selector."""

    def due(self) -> float:
        """When `step` has something to do, on the monotonic clock; asked at the beginning of each round."""

    def step(self, idle: bool) -> None:
        """Do what is due; called at the end of each round, `idle` where no descriptor was ready in it."""


class Alarm:
    """A callback for a moment; one per purpose, set again and again.

    Attributes:
        at: when it is due, on the monotonic clock; `inf` for never.  May be assigned in the loop.
    """

    __slots__ = ("act", "at")

    def __init__(self, act: Act) -> None:
        self.act, self.at = act, math.inf


class Loop:
    """Calls what was registered for a descriptor or a moment; see the theory of operation.

    `call`, `post`, `wait`, `start` and `close` may be called from any thread and from a signal's handler, all
    other methods in the loop only, or before it is started.

    Args:
        name: of the thread.

    Attributes:
        selector: calls the data of each key that is ready.
    """

    def __init__(self, name: str = "elastic loop") -> None:
        self._name = name
        self._bell, self._ear = socket.socketpair()
        try:
            self.selector = selectors.DefaultSelector()
        except OSError:  # No descriptor is left.
            self._bell.close()
            self._ear.close()
            raise
        self._watched: dict[int, Act] = {}
        self._members: list[Member] = []
        self._alarms: list[Alarm] = []
        self._settled: list[Act] = []
        self._orders: deque[Act] = deque()
        self._waiters: list[_Waiter] = []
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._forked: list[Act] = []
        self._turn = threading.RLock()  # Who drives a loop that was not started.
        self._thread: threading.Thread | None = None
        self._driver = 0
        self._recheck = self._closing = self._ended = False
        self.selector.register(self._ear, selectors.EVENT_READ)
        _loops.add(self)

    # In the loop.

    def watch(self, descriptor: int, act: Act) -> None:
        """Call `act` whenever the descriptor is readable, until `unwatch`."""
        self._watched[descriptor] = act
        self.selector.register(descriptor, selectors.EVENT_READ, partial(self._serve, descriptor, act))

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor, before it is closed; nothing happens if it is not watched."""
        if self._watched.pop(descriptor, None) is not None:
            self.selector.unregister(descriptor)

    def add(self, member: Member) -> None:
        """Drive a member."""
        self._members.append(member)

    def remove(self, member: Member) -> None:
        """Drive it no more; nothing happens if it is not driven."""
        with suppress(ValueError):
            self._members.remove(member)

    def alarm(self, act: Act) -> Alarm:
        """A new alarm, not set."""
        self._alarms.append(Alarm(act))
        return self._alarms[-1]

    def in_child(self, act: Act) -> None:
        """Call `act` in every child that this process forks, to let go of what is the parent's."""
        self._forked.append(act)

    def settle(self, act: Act) -> None:
        """Call `act` when all that has arrived by now is served; once, however often that was asked for."""
        if act not in self._settled:
            self._settled.append(act)

    def recheck(self) -> None:
        """Evaluate what other threads wait for, at the end of this round."""
        self._recheck = True

    def has_arrived(self) -> bool:
        """Whether a descriptor is ready that was not served yet."""
        return bool(self.selector.select(0))

    def step(self, timeout: float = 0.0) -> None:
        """Serve what is ready, and wait for that for at most `timeout` seconds.

        For the driver of a loop that was not started.  What a callback raises, it raises here.
        """
        with self._turn:
            try:
                self._round(timeout)
            finally:
                if self._closing:
                    self._end()

    def fileno(self) -> int:
        """Readable when a descriptor is ready; -1 on systems without epoll."""
        fileno: Callable[[], int] = getattr(self.selector, "fileno", lambda: -1)
        return fileno()

    def _serve(self, descriptor: int, act: Act) -> None:
        if self._watched.get(descriptor) is act:  # Else it was forgotten in this round.
            act()

    def _round(self, timeout: float) -> None:
        due = self._due()
        settled, self._settled = self._settled, []
        if settled:
            timeout = 0.0
        elif due < math.inf:
            timeout = max(0.0, min(timeout, due - SYSTEM_CLOCK.monotonic()))
        ready = self._ready(timeout)
        for key, _ in ready:
            (key.data or self._hear)()
        for member in self._members:
            member.step(not ready)
        if self._alarms:
            self._ring()
        for act in settled:
            act()
        if self._recheck:
            self._recheck = False
            self._waiters = [waiter for waiter in self._waiters if not waiter.look()]

    def _due(self) -> float:
        due = math.inf
        for alarm in self._alarms:
            if alarm.at < due:
                due = alarm.at
        for member in self._members:
            due = min(due, member.due())
        return due

    def _ready(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self.selector.select(timeout if timeout < _LONGEST else _LONGEST)
        except (ValueError, OSError, RuntimeError):
            if not self._ended:  # By a signal's handler, in the middle of it.
                raise
            return []

    def _ring(self) -> None:
        now = SYSTEM_CLOCK.monotonic()
        for alarm in tuple(self._alarms):
            if alarm.at <= now:
                alarm.at = math.inf
                alarm.act()

    def _hear(self) -> None:
        with suppress(OSError):
            self._ear.recv(4096)
        self._obey()

    def _obey(self) -> None:
        while self._orders:
            try:
                order = self._orders.popleft()
            except IndexError:  # The loop has ended, and its caller has taken the last one back.
                return
            order()

    # From any thread.

    @property
    def is_here(self) -> bool:
        """Whether the calling thread may touch what is registered: nobody else does."""
        return self._driver == threading.get_ident() or self._ended

    def start(self) -> None:
        """Run in a thread of its own, until `close`; a second call does nothing."""
        with self._turn:
            if self._thread is not None or self._closing:
                return
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                self._thread.start()
            except BaseException:  # No thread to be had.
                self._thread = None
                raise

    def post(self, act: Act) -> bool:
        """Have the loop do this next, without waiting for it; whether it will: not so after `close`."""
        return not self._closing and self._hand(act)

    def call(self, act: Callable[[], T]) -> T:
        """Run `act` in the loop, after all that was posted before; its result, or what it raises."""
        if self.is_here:
            return act()
        if self._thread is None:
            self._wake_up()  # Whoever drives it.
            with self._turn:
                self._obey()
                return act()
        order = _Call(act)
        if not self._hand(order.run):
            return act()
        order.done.acquire()
        return cast(T, order.result())

    def wait(self, predicate: Callable[[], T], deadline: Deadline) -> T:
        """Block until `predicate` is true in the loop, or until the deadline; its last value.

        It is evaluated in the loop: at first, and after each round in which somebody said `recheck`; in a
        loop that was not started after each round.  A signal whose handler raises ends the wait at once.

        Raises:
            RuntimeError: this is the loop's own thread.
        """
        if self._driver == threading.get_ident():
            raise RuntimeError("the loop's own thread cannot wait for the loop")
        if self._thread is None and not self._ended:
            return self._drive(predicate, deadline)
        waiter = _Waiter(predicate)
        try:
            left = deadline.remaining()
            if left > 0 and self._hand(partial(self._enlist, waiter)):
                waiter.done.acquire(timeout=-1 if left == math.inf else min(left, threading.TIMEOUT_MAX))
        finally:
            waiter.over = True
        if not waiter.met:
            value = self.call(predicate)  # After which the loop does not evaluate it any more.
        return cast(T, waiter.result()) if waiter.met else value

    def close(self) -> None:
        """End the thread and let go of the descriptors; at most 1 s, idempotent.

        What was posted before is still done.
        """
        self._closing = True
        thread = self._thread
        self._wake_up()
        if thread is None:
            if self._turn.acquire(timeout=_CLOSING_TIME):
                self._end()
                self._turn.release()
        elif thread is not threading.current_thread():
            thread.join(_CLOSING_TIME)

    def stop(self, last: Act) -> None:
        """End soon, after `last`, without waiting for it: for finalizers, which may run in any thread."""
        if self._closing:
            return
        if self._thread is None:
            last()
            self.close()
        elif self.post(last):
            self._closing = True
            self._wake_up()

    def __del__(self) -> None:
        if hasattr(self, "selector"):
            self._let_go()  # Of one that was never started.

    def after_fork(self) -> None:
        """In a forked child: the loop is the parent's."""
        self._closing = self._ended = True
        self._thread, self._driver = None, 0
        self._turn = threading.RLock()
        for container in (self._orders, self._waiters, self._alarms, self._settled, self._members):
            container.clear()
        self._watched.clear()
        self._let_go()
        for act in self._forked:
            act()

    def _hand(self, act: Act) -> bool:
        """Give the loop something to do; whether it comes to it, or had ended before."""
        self._orders.append(act)
        self._wake_up()
        if self._ended:
            with suppress(ValueError):
                self._orders.remove(act)
                return False
        return True

    def _enlist(self, waiter: _Waiter) -> None:
        if not waiter.look():
            self._waiters.append(waiter)

    def _drive(self, predicate: Callable[[], T], deadline: Deadline) -> T:
        """Be the loop until then.  Several threads may: who sleeps lets the others."""
        while True:
            with self._turn:
                self._round(0.0)
                while self._settled and not self._ended:
                    self._round(0.0)
                value = predicate()
                if value or self._ended or deadline.passed():
                    return value
                until = min(deadline.at, self._due(), SYSTEM_CLOCK.monotonic() + _SLICE)
                poll = select.poll()
                poll.register(self.fileno(), select.POLLIN)
            poll.poll(max(0, math.ceil((until - SYSTEM_CLOCK.monotonic()) * 1000)))

    def _wake_up(self) -> None:
        with suppress(OSError):  # Full: it is awake already.  Closed: nobody needs to hear it.
            self._bell.send(b"!")

    def _run(self) -> None:
        self._driver = threading.get_ident()
        try:
            while not self._closing:
                self._round(math.inf)
        finally:
            self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._obey()
        self._closing = self._ended = True
        self._obey()  # Whoever came between has seen no end.
        for waiter in self._waiters:
            waiter.done.release()
        self._waiters.clear()
        self._driver = 0
        self._let_go()

    def _let_go(self) -> None:
        self._bell.close()
        self._ear.close()
        self._watched.clear()
        self.selector.close()


class _Call:
    """A function for the loop, and the caller who waits for its result."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._value = act, cast(object, None)
        self._error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        """Do it; the caller goes on."""
        try:
            self._value = self._act()
        except BaseException as error:  # It is the caller's.
            self._error = error
        self.done.release()

    def result(self) -> object:
        """What came of it."""
        if self._error is not None:
            raise self._error
        return self._value


class _Waiter(_Call):
    """A predicate for the loop, and the caller who waits until it holds.

    Attributes:
        met: it held, or has raised.
        over: nobody waits any more.
    """

    met = over = False

    def look(self) -> bool:
        """Whether the loop need not evaluate it again."""
        if not self.over:
            try:
                self._value = self._act()
            except BaseException as error:  # It is the caller's.
                self._error = error
            if self._value or self._error is not None:
                self.met = True
                self.done.release()
        return self.met or self.over


_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def _after_fork() -> None:
    for loop in list(_loops):
        loop.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
