"""Crews of simulated ranks that run one at a time: threads that pass a baton, or greenlets.

A *crew* has a member for each rank, and one baton.  Only the member that holds the baton runs; `switch` hands
it on and returns when it comes back.  Members live as long as the crew and serve one execution after another,
since starting a thread costs more than a short execution.  A thread waits for the baton on a lock of its own,
so a hand-over is one wake-up.  All threads of a crew stay on one processor, where a hand-over costs a third;
only one of them has work at a time.

A member that does not reach a scheduling point for `PATIENCE` seconds is taken to be stuck.  The crew then
raises `Stuck` at home and cannot be used any more.  A thread that computes gets an exception; a thread that
is in a blocking call stays, as a daemon, until the call returns.  (In CPython 3.11, under tracing, an
exception that is pending for a thread which does not take it makes other threads loop for ever.)  Greenlets
occupy the thread that should raise, so a watching thread sends it a signal; that is why greenlets work in the
main thread only.  Code that keeps data by thread, as torch does, needs a crew of threads.
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
_PROCESSOR = 36  # Field of proc(5)'s stat with the thread's last processor, counted from its state.
_SIGNAL = signal.SIGURG  # Ignored by default, and rarely used.

Body = Callable[[int], int]


class Stuck(Exception):
    """A member kept the baton.

    Attributes:
        member: its number.
        stack: its stack, as from `traceback.format_stack`.
    """

    def __init__(self, member: int, stack: list[str]) -> None:
        self.member, self.stack = member, stack
        super().__init__(member, stack)


class Interrupted(BaseException):
    """Raised in a member that is stuck."""


class Crew(Protocol):
    """Members that run one at a time.

    Attributes:
        beat: heartbeat, counted up by the members at every scheduling point.
    """

    beat: int

    def resume(self, member: int) -> None:
        """From home: hand the baton to a member, and block until it comes home.

        Raises:
            Stuck: a member keeps it.
        """

    def switch(self, me: int, to: int) -> None:
        """From a member: hand the baton on (`HOME` is the caller of `resume`); blocks until it is back."""

    def runs(self, member: int) -> bool:
        """Whether the calling thread or greenlet is this member."""

    def frame(self, member: int) -> FrameType | None:
        """From home: the current frame of a member that waits for the baton."""

    def close(self) -> None:
        """End the members; inside their bodies `Interrupted` is raised at the next wait for the baton."""


class ThreadCrew:
    """A crew of threads.

    Args:
        size: number of members.
        body: called by a member each time it gets the baton outside of a body; returns the next member.
    """

    def __init__(self, size: int, body: Body) -> None:
        self.beat = 0
        self._body, self._holder, self._closed = body, HOME, False
        self._lost = HOME
        self._home, self._affinity = _held(), _Affinity()
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
        while not self._home.acquire(timeout=_MOMENT):  # May delay a signal this long.
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
        self._affinity.leave()
        for baton in self._batons:
            if baton.locked():
                baton.release()
        for thread in self._threads:
            used = processor_time(thread.native_id or 0)
            thread.join(_MOMENT)
            if thread.is_alive() and processor_time(thread.native_id or 0) > used:
                raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted))
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
                if member == self._lost or self._closed:  # No one waits for the baton any more.
                    return
                self._hand(to)
        except Interrupted:
            return


class _Affinity:
    """Pins the calling thread, and threads that it starts, to its current processor, until `leave`.

    Does nothing on a system that does not support it.
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
        """Restore the thread's affinity; may be called from another thread."""
        if self._allowed:
            with suppress(ProcessLookupError):  # It has ended.
                os.sched_setaffinity(self._thread, self._allowed)


class GreenletCrew:
    """A crew of greenlets in the main thread; they share its thread-local data and its locks.

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
    """A crew of greenlets in the main thread, if greenlet is installed and torch not loaded, else of threads.

    Torch keeps what belongs to a rank by thread: in greenlets one rank's `no_grad` would hold in the others.
    """
    if threading.current_thread() is threading.main_thread() and "torch" not in sys.modules:
        try:
            return GreenletCrew(size, body)
        except ImportError:
            pass
    return ThreadCrew(size, body)


def _held() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock
