"""Ranks that run one at a time: threads that pass a baton, or greenlets where they are installed.

A *crew* has a member for each rank and one baton.  Whoever holds it runs; `switch` hands it on and returns
when it comes back.  Members live as long as the crew and serve one execution after the other, since starting
a thread costs more than a short execution.  The baton of a thread is a lock of its own that others release:
direct, one wake-up for each hand-over.  All threads of a crew stay on one processor, where a hand-over
costs a third: only one of them has work at a time.

A member that does not come to a scheduling point for `PATIENCE` seconds keeps the baton for ever, as far as
anybody can know.  The crew then raises `Stuck` at home, and is of no use any more.  A thread that computes
gets an exception; one that is in a call stays, as a daemon, until that returns.  (An exception that is
pending for a thread which does not take it makes others loop for ever, under tracing, in CPython 3.11.)
Greenlets are in the way of the thread that should raise, so there a watching thread sends that one a signal;
this is why they work in the main thread only.
"""

from __future__ import annotations

import _thread
import ctypes
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from pytest_elastic.pristine import os, signal, threading
from pytest_elastic.processes import processor_time

HOME = -1
PATIENCE = 5.0
_MOMENT = 0.2
_PROCESSOR = 36  # Where a thread ran last: proc(5), counted from the state.
_SIGNAL = signal.SIGURG  # By default it does nothing, so it is nobody's.

Body = Callable[[int], int]


class Stuck(Exception):
    """A member kept the baton.

    Attributes:
        member: which one.
        stack: where it stands, innermost last; as `traceback.format_stack` has it.
    """

    def __init__(self, member: int, stack: list[str]) -> None:
        self.member, self.stack = member, stack
        super().__init__(member, stack)


class Interrupted(BaseException):
    """Raised in a member that is stuck."""


class Crew(Protocol):
    """Members that run one at a time.

    Attributes:
        beat: counted up by the members at every scheduling point, to show that they are alive.
    """

    beat: int

    def resume(self, member: int) -> None:
        """From home: hand the baton to a member; returns when it comes home.

        Raises:
            Stuck: it does not.
        """

    def switch(self, me: int, to: int) -> None:
        """From a member: hand the baton on (`HOME` is the caller of `resume`) until it comes back."""

    def runs(self, member: int) -> bool:
        """Whether the caller is this member, and not another or just some thread."""

    def frame(self, member: int) -> FrameType | None:
        """From home: where a member that waits for the baton stands."""

    def close(self) -> None:
        """End the members: those in their bodies get `Interrupted` where they wait, or when they do."""


class ThreadCrew:
    """A crew of threads.

    Args:
        size: how many.
        body: run by a member each time it gets the baton with nothing left to do; returns who is next.
    """

    def __init__(self, size: int, body: Body) -> None:
        self.beat = 0
        self._body, self._holder, self._closed = body, HOME, False
        self._lost = HOME
        self._home, self._place = _held(), _Place()
        self._batons = [_held() for _ in range(size)]
        self._threads = [
            threading.Thread(target=self._serve, args=(member,), name=f"simulated rank {member}", daemon=True)
            for member in range(size)
        ]
        for thread in self._threads:
            thread.start()
        self._idents = [thread.ident or 0 for thread in self._threads]

    def resume(self, member: int) -> None:
        self._holder = member
        self._batons[member].release()
        beat, waited = self.beat, 0.0
        while not self._home.acquire(timeout=_MOMENT):  # A signal that comes just before it waits this long.
            waited = waited + _MOMENT if self.beat == beat else 0.0
            beat = self.beat
            if waited >= PATIENCE:
                self._lost = self._holder
                raise Stuck(self._lost, traceback.format_stack(self.frame(self._lost)))

    def switch(self, me: int, to: int) -> None:
        self._hand(to)
        self._batons[me].acquire()
        if self._closed:
            raise Interrupted

    def runs(self, member: int) -> bool:
        return threading.get_ident() == self._idents[member] and member != self._lost

    def frame(self, member: int) -> FrameType | None:
        return sys._current_frames().get(self._idents[member])

    def close(self) -> None:
        self._closed = True
        self._place.leave()
        for baton in self._batons:
            if baton.locked():
                baton.release()
        for thread in self._threads:
            used = processor_time(thread.native_id or 0)
            thread.join(_MOMENT)
            if thread.is_alive() and processor_time(thread.native_id or 0) > used:
                _raise_in(thread.ident or 0)
                thread.join(_MOMENT)

    def _hand(self, to: int) -> None:
        self._holder = to
        (self._home if to == HOME else self._batons[to]).release()

    def _serve(self, member: int) -> None:
        try:
            while True:
                self._batons[member].acquire()
                if self._closed:
                    return
                to = self._body(member)
                if member == self._lost or self._closed:  # Nobody waits for it any more.
                    return
                self._hand(to)
        except Interrupted:
            return


class _Place:
    """Keeps the calling thread, and those that it starts from then on, where it runs now; until `leave`.

    Does nothing on a system that cannot say or will not do it.
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._allowed: set[int] = set()
        with suppress(AttributeError, OSError):
            allowed = os.sched_getaffinity(0)
            fields = Path("/proc/thread-self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            os.sched_setaffinity(0, {int(fields[_PROCESSOR])})
            self._allowed = allowed

    def leave(self) -> None:
        """Let the thread go where it might before; another thread may call this."""
        if self._allowed:
            with suppress(ProcessLookupError):  # It has ended.
                os.sched_setaffinity(self._thread, self._allowed)


class GreenletCrew:
    """A crew of greenlets in the caller's thread: they share its thread-locals and its locks.

    Made in the main thread only.

    Raises:
        ImportError: greenlet is not installed.
    """

    def __init__(self, size: int, body: Body) -> None:
        from greenlet import getcurrent, greenlet

        self.beat = 0
        self._body, self._getcurrent, self._holder = body, getcurrent, HOME
        self._members: list[Any] = [greenlet(self._serve) for _ in range(size)]
        self._members.append(getcurrent())
        self._stuck: Stuck | None = None
        self._ident = threading.get_ident()
        self._old_handler = signal.signal(_SIGNAL, self._interrupt)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="simulation watch", daemon=True)
        self._watcher.start()

    def resume(self, member: int) -> None:
        self._holder = member
        self._members[HOME] = self._getcurrent()
        self._members[member].switch(member)
        self._holder = HOME
        if self._stuck is not None:
            stuck, self._stuck = self._stuck, None
            raise stuck

    def switch(self, me: int, to: int) -> None:
        self._holder = to
        self._members[to].switch(to)

    def runs(self, member: int) -> bool:
        return self._getcurrent() is self._members[member]

    def frame(self, member: int) -> FrameType | None:
        frame: FrameType | None = self._members[member].gr_frame
        return frame

    def close(self) -> None:
        self._done.set()
        self._watcher.join()
        signal.signal(_SIGNAL, self._old_handler or signal.SIG_DFL)
        for member in self._members[:HOME]:
            if member:
                member.throw()

    def _serve(self, member: int) -> None:
        while True:
            try:
                to = self._body(member)
            except Interrupted:
                to = HOME
            self._holder = to = HOME if self._stuck is not None else to
            self._members[to].switch(to)

    def _watch(self) -> None:
        beat, holder = self.beat, self._holder
        while not self._done.wait(PATIENCE):
            if holder != HOME and (self.beat, self._holder) == (beat, holder):
                stack = traceback.format_stack(sys._current_frames().get(self._ident))
                self._stuck = Stuck(holder, stack)
                signal.pthread_kill(self._ident, _SIGNAL)
            beat, holder = self.beat, self._holder

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stuck is not None:
            raise Interrupted


def make_crew(size: int, body: Body) -> Crew:
    """Greenlets where they are installed and can be watched, else threads."""
    if threading.current_thread() is threading.main_thread():
        try:
            return GreenletCrew(size, body)
        except ImportError:
            pass
    return ThreadCrew(size, body)


def _held() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def _raise_in(ident: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupted))
