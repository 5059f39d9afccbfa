"""The timers of a group's ranks, served in the loop that waits for the ranks anyway."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from pytest_elastic.clock import Deadline
from pytest_elastic.hang import Stack
from pytest_elastic.timer._channel import Expiry, TimerTable, open_channel


class GroupTimers:
    """One channel per rank, so that a rank killed at any moment hinders nobody.

    One thread's, but for `next_deadline`.

    Attributes:
        expiries: rank -> the timer that it was killed for.
        stood: rank -> where it stood then.
    """

    def __init__(self) -> None:
        self._table = TimerTable()
        self._lock = threading.RLock()
        self.expiries: dict[int, Expiry] = {}
        self.stood: dict[int, list[Stack]] = {}

    def open(self, rank: int) -> int:
        """Make a channel; the rank's end is the value, the caller's to close."""
        ours, theirs = open_channel()
        self._table.attach(rank, ours)
        return theirs

    def descriptors(self) -> Iterable[int]:
        """To be polled."""
        return self._table.channels()

    def sooner(self, deadline: Deadline) -> Deadline:
        """This deadline or that of the next timer, whichever comes first."""
        with self._lock:
            return deadline.earlier(Deadline(self._table.next_deadline()))

    def next_deadline(self) -> float:
        """When the next timer expires, what the ranks have just sent included; `inf` for never."""
        with self._lock:
            self._read()
            return self._table.next_deadline()

    def expired(self) -> list[int]:
        """Take what the ranks have sent; the ranks whose timers have expired, each once."""
        with self._lock:
            self._read()
            expiries = self._table.expired()
        self.expiries |= {expiry.rank: expiry for expiry in expiries}
        return [expiry.rank for expiry in expiries]

    def disarm(self) -> None:
        """Forget what is armed: timers of a test do not outlive it."""
        with self._lock:
            for rank in list(self._table.channels().values()):
                self._table.disarm(rank)

    def close(self) -> None:
        """Let go of the channels; idempotent."""
        with self._lock:
            self._table.close()

    def _read(self) -> None:
        for rank in list(self._table.channels().values()):
            if not self._table.read(rank):
                self._table.detach(rank)


def describe_expiry(expiry: Expiry) -> str:
    """In words: `timer "exchange" (test_x.py:41) expired after 5.0 s`."""
    place = f"{os.path.basename(expiry.file)}:{expiry.line}"
    unnamed = expiry.scope == f"{expiry.file}#{expiry.line}"
    name = f"timer at {place}" if unnamed else f'timer "{expiry.scope}" ({place})'
    return f"{name} expired after {expiry.span:.1f} s"
