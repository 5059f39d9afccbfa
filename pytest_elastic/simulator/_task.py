"""Ranks that run one at a time: threads that pass a baton, or greenlets where they are installed.

A *crew* has a member for each rank and one baton.  Whoever holds it runs; `switch` hands it on and returns
when it comes back.  Members live as long as the crew and serve one execution after the other, since starting
a thread costs more than a short execution.  The baton of a thread is a lock of its own that others release:
direct, one wake-up for each hand-over.

A member that does not come to a scheduling point for `PATIENCE` seconds holds the baton for ever, as far as
anybody can know.  The crew then raises `Stuck` at home and is of no use any more.
"""

from __future__ import annotations

import _thread
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

HOME = -1
PATIENCE = 5.0

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


class Crew(Protocol):
    """Members that run one at a time.

    Attributes:
        beat: to be counted up by the members at every scheduling point, to show that they are alive.
    """

    beat: int

    def resume(self, member: int) -> None:
        """From home: hand the baton to a member; returns when it comes home.

        Raises:
            Stuck: it does not.
        """

    def switch(self, me: int, to: int) -> None:
        """From a member: hand the baton on (`HOME` is the caller of `resume`) until it comes back."""

    def runs_here(self) -> bool:
        """Whether the caller is one of the members, and not just some thread."""

    def close(self) -> None:
        """End the members; every one must have come to its body's end."""


class ThreadCrew:
    """A crew of threads.

    Args:
        size: how many.
        body: run by a member each time it gets the baton with nothing left to do; returns who is next.
    """

    def __init__(self, size: int, body: Body) -> None:
        self.beat = 0
        self._body, self._holder, self._closed = body, HOME, False
        self._home = _held()
        self._batons = [_held() for _ in range(size)]
        self._threads = [
            threading.Thread(target=self._serve, args=(member,), name=f"simulated rank {member}", daemon=True)
            for member in range(size)
        ]
        for thread in self._threads:
            thread.start()
        self._idents = frozenset(thread.ident for thread in self._threads)

    def resume(self, member: int) -> None:
        self._holder = member
        self._batons[member].release()
        beat = self.beat
        while not self._home.acquire(timeout=PATIENCE):
            if self.beat == beat:
                raise Stuck(self._holder, self._give_up())
            beat = self.beat

    def switch(self, me: int, to: int) -> None:
        self._hand(to)
        self._batons[me].acquire()
        if self._closed:
            raise SystemExit

    def runs_here(self) -> bool:
        return threading.get_ident() in self._idents

    def close(self) -> None:
        self._closed = True
        for baton, thread in zip(self._batons, self._threads, strict=True):
            if thread.is_alive():
                baton.release()
                thread.join(PATIENCE)

    def _hand(self, to: int) -> None:
        self._holder = to
        (self._home if to == HOME else self._batons[to]).release()

    def _serve(self, member: int) -> None:
        while True:
            self._batons[member].acquire()
            if self._closed:
                return
            self._hand(self._body(member))

    def _give_up(self) -> list[str]:
        frame = sys._current_frames().get(self._threads[self._holder].ident or 0)
        return traceback.format_stack(frame)


class GreenletCrew:
    """A crew of greenlets in the caller's thread: they share its thread-locals and its locks."""

    def __init__(self, size: int, body: Body) -> None:
        from greenlet import getcurrent, greenlet

        self.beat = 0
        self._body, self._getcurrent = body, getcurrent
        self._ident = threading.get_ident()
        self._members: list[Any] = [greenlet(self._serve) for _ in range(size)]
        self._members.append(getcurrent())

    def resume(self, member: int) -> None:
        self._members[HOME] = self._getcurrent()
        self._members[member].switch(member)

    def switch(self, me: int, to: int) -> None:
        self._members[to].switch(to)

    def runs_here(self) -> bool:
        return threading.get_ident() == self._ident and self._getcurrent() is not self._members[HOME]

    def close(self) -> None:
        for member in self._members[:HOME]:
            if member:
                member.throw()

    def _serve(self, member: int) -> None:
        while True:
            to = self._body(member)
            self._members[to].switch(to)


def make_crew(size: int, body: Body) -> Crew:
    """Greenlets where they are installed, else threads."""
    try:
        return GreenletCrew(size, body)
    except ImportError:
        return ThreadCrew(size, body)


def _held() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock
