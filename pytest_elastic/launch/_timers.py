"""The timers of a group's ranks, served in the loop that waits for the ranks, or in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.hang import Stack
from pytest_elastic.pristine import os, select, threading
from pytest_elastic.timer import Expiry, TimerTable, open_channel


class GroupTimers:
    """One channel per rank, so that a rank killed at any moment hinders nobody.  Thread-safe.

    Attributes:
        expiries: rank -> the timer that it was killed for.
        stood: rank -> where it stood then.
        paused: for how many seconds timers stood still so far.
    """

    def __init__(self) -> None:
        self._table = TimerTable()
        self._lock = threading.RLock()
        self._watch: _Watch | None = None
        self.expiries: dict[int, Expiry] = {}
        self.stood: dict[int, list[Stack]] = {}
        self.paused = 0.0
        self._pauses = 0

    def open(self, rank: int) -> int:
        """Make a channel; the rank's end is the value, the caller's to close."""
        ours, theirs = open_channel()
        self._table.attach(rank, ours)
        return theirs

    def watch(self, expire: Callable[[], object]) -> None:
        """From now on and until `close`, a thread calls `expire` when timers may have expired."""
        self._watch = _Watch(self, expire)

    def descriptors(self) -> Iterable[int]:
        """To be polled; none where a thread does."""
        return [] if self._watch is not None else self.channels()

    def sooner(self, deadline: Deadline) -> Deadline:
        """This deadline or that of the next timer, whichever comes first; this one where a thread looks."""
        return deadline if self._watch is not None else deadline.earlier(self.next_deadline())

    def channels(self) -> list[int]:
        """The descriptors by which ranks send."""
        with self._lock:
            return list(self._table.channels())

    def next_deadline(self) -> Deadline:
        """When the next timer expires, what the ranks have just sent included."""
        with self._lock:
            self._read()
            return Deadline(self._table.next_deadline())

    def expired(self) -> list[int]:
        """Take what the ranks have sent; the ranks whose timers have expired, each once."""
        with self._lock:
            self._read()
            expiries = self._table.expired()
            self.expiries |= {expiry.rank: expiry for expiry in expiries}
        return [expiry.rank for expiry in expiries]

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Inside, no timer comes nearer to its deadline; nests."""
        begin = SYSTEM_CLOCK.monotonic()
        with self._lock:
            self._pauses += 1
            self._table.pause()
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if not self._pauses:
                    self._table.resume()
                self.paused += SYSTEM_CLOCK.monotonic() - begin
            if self._watch is not None:
                self._watch.wake()

    def disarm(self) -> None:
        """Forget what is armed: timers of a test do not outlive it."""
        with self._lock:
            for rank in list(self._table.channels().values()):
                self._table.disarm(rank)

    def close(self) -> None:
        """Let go of the channels; idempotent."""
        if self._watch is not None:
            self._watch.end()
        with self._lock:
            self._table.close()

    def _read(self) -> None:
        for rank in list(self._table.channels().values()):
            if not self._table.read(rank):
                self._table.detach(rank)


class _Watch:
    """A thread that sleeps until a rank sends or a timer expires."""

    def __init__(self, timers: GroupTimers, expire: Callable[[], object]) -> None:
        self._timers, self._expire = timers, expire
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="GroupTimers", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have it look again."""
        if not self._ended:
            os.eventfd_write(self._woken, 1)

    def end(self) -> None:
        """Have it end; blocks until a kill that is under way is done.  Idempotent."""
        if not self._ended:
            self._ended = True
            os.eventfd_write(self._woken, 1)
            self._thread.join()
            os.close(self._woken)

    def _run(self) -> None:
        while not self._ended:
            poll = select.poll()
            for descriptor in (self._woken, *self._timers.channels()):
                poll.register(descriptor, select.POLLIN)
            poll.poll(min(self._timers.next_deadline().remaining(), 3600.0) * 1000)
            try:
                os.eventfd_read(self._woken)
            except BlockingIOError:
                pass
            if not self._ended:
                self._expire()


def describe_expiry(expiry: Expiry) -> str:
    """In words: `timer "exchange" (test_x.py:41) expired after 5.0 s`."""
    place = f"{os.path.basename(expiry.file)}:{expiry.line}"
    unnamed = expiry.scope == f"{expiry.file}#{expiry.line}"
    name = f"timer at {place}" if unnamed else f'timer "{expiry.scope}" ({place})'
    return f"{name} expired after {expiry.span:.1f} s"
