"""The timers of a group's ranks, served in the group's loop, whatever the launcher does meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.hang import Stack
from pytest_elastic.loop import Loop
from pytest_elastic.pristine import os
from pytest_elastic.timer import Expiry, TimerTable, open_channel


class GroupTimers:
    """One channel per rank, so that a rank killed at any moment hinders nobody.

    Args:
        loop: that reads them.
        expire: called in the loop with the ranks whose timers have expired, each once.

    Attributes:
        expiries: rank -> the timer that it was killed for.
        stood: rank -> where it stood then.
        paused: for how many seconds timers stood still so far.
    """

    def __init__(self, loop: Loop, expire: Callable[[list[int]], object]) -> None:
        self._loop, self._expire = loop, expire
        self._table = TimerTable()
        self._alarm = loop.alarm(self._look)
        self._pauses: set[object] = set()  # Those that last; since when the first of them does.
        self._since = 0.0
        self.expiries: dict[int, Expiry] = {}
        self.stood: dict[int, list[Stack]] = {}
        self.paused = 0.0

    def open(self, rank: int) -> int:
        """Make a channel; the rank's end is the value, the caller's to close."""
        ours, theirs = open_channel()
        self.adopt(rank, ours)
        return theirs

    def adopt(self, rank: int, descriptor: int, stream: bool = False) -> None:
        """Use this descriptor as the launcher's end of a rank's channel; see `TimerTable.attach`."""

        def attach() -> None:
            self._table.attach(rank, descriptor, stream)
            self._loop.watch(descriptor, partial(self._read, rank, descriptor))

        self._loop.call(attach)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Inside, no timer comes nearer to its deadline; nests."""
        pause = object()
        try:  # An interrupt may come while the loop is asked.
            self._loop.call(partial(self._pause, pause))
            yield
        finally:
            self._loop.call(partial(self._resume, pause))

    def disarm(self) -> None:
        """Forget what is armed: timers of a test do not outlive it."""
        self._loop.call(self._disarm)

    def close(self) -> None:
        """Let go of the channels; idempotent."""
        self._loop.call(self._close)

    # In the loop.

    def has(self, rank: int) -> bool:
        """Whether there is a channel to this rank."""
        return rank in self._table.channels().values()

    def next_deadline(self) -> float:
        """When the next timer expires, on the monotonic clock; `inf` for never."""
        return self._table.next_deadline()

    def _read(self, rank: int, descriptor: int) -> None:
        if not self._table.read(rank):
            self._loop.unwatch(descriptor)
            self._table.detach(rank)
        self._plan()

    def _plan(self) -> None:
        self._alarm.at = self._table.next_deadline()

    def _look(self) -> None:
        expiries = self._table.expired()
        self._plan()
        self.expiries |= {expiry.rank: expiry for expiry in expiries}
        if expiries:
            self._expire([expiry.rank for expiry in expiries])

    def _pause(self, pause: object) -> None:
        if not self._pauses:
            self._since = SYSTEM_CLOCK.monotonic()
        self._pauses.add(pause)
        self._table.pause()
        self._alarm.at = math.inf

    def _resume(self, pause: object) -> None:
        if pause not in self._pauses:
            return
        self._pauses.remove(pause)
        if not self._pauses:
            self._table.resume()
            self._plan()
            self.paused += SYSTEM_CLOCK.monotonic() - self._since
            self._loop.recheck()

    def _disarm(self) -> None:
        for rank in list(self._table.channels().values()):
            self._table.disarm(rank)
        self._plan()

    def _close(self) -> None:
        for descriptor in self._table.channels():
            self._loop.unwatch(descriptor)
        self._table.close()
        self._alarm.at = math.inf


def describe_expiry(expiry: Expiry) -> str:
    """In words: `timer "exchange" (test_x.py:41) expired after 5.0 s`."""
    place = f"{os.path.basename(expiry.file)}:{expiry.line}"
    unnamed = expiry.scope == f"{expiry.file}#{expiry.line}"
    name = f"timer at {place}" if unnamed else f'timer "{expiry.scope}" ({place})'
    return f"{name} expired after {expiry.span:.1f} s"
