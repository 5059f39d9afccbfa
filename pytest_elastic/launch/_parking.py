"""Ranks that hang though not all of their threads are in the store: those wait for the end of one that is.

*Theory.*  A test that joins a thread, or waits for its future, stands as long as the thread does.  Where the
thread's wait is doomed, only its time-out is left, and what the test does with that error is unknown: so no
time is let pass.  But if all time-outs are beyond the test's own, that is what the test would end by, and it
may end at once.

*Rule.*  A look tells of threads one after the other.  It takes two, with no event and no use of the processor
between them, to know that all stood at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import Event, WaitEnded
from pytest_elastic.hang import Rank, WaitGraph
from pytest_elastic.launch._process_state import Watched

AGAIN = 0.2  # Seconds between two looks.


class Parking:
    """Looks at the ranks of a group, in one phase, while some are known to hang.

    Attributes:
        until: when the first of their waits times out, if nothing else will happen; 0 where it may.
        endless: in words, that the test's time is up before that; `""` while it is not.
    """

    def __init__(self, group: Watched) -> None:
        self._group = group
        self._before: tuple[int, int, float] | None = None  # Events, processor time, since when.
        self.until, self.endless = 0.0, ""

    def look(self, graph: WaitGraph, events: Iterable[Event], count: int, timer: float) -> bool:
        """Look whether threads of ranks that run only wait for each other, and for those in the store.

        Args:
            events: what happened in the test; `count` says how much in all.
            timer: when the first timer of a rank expires.

        Returns:
            Whether they do, and `until` is known.
        """
        self.until = 0.0
        running = [rank for rank in graph.ranks if rank.runs]
        if not (running and graph.doomed and all(rank.waits and self._is_parked(rank) for rank in running)):
            self._before = None
            return False
        now = SYSTEM_CLOCK.monotonic()
        used = sum(chain(*(self._group.family(rank.number).ticks().values() for rank in running)))
        if self._before is None or self._before[:2] != (count, used):
            self._before = (count, used, now)
        # Where time was let pass before, waits end sooner than they seem to.
        jumped = any(isinstance(event, WaitEnded) and event.how == "jumped" for event in events)
        if not jumped and now - self._before[2] >= AGAIN:
            self.until = min(timer, *(wait.deadline for wait in graph.waits()))
        return self.until > 0

    def outlasts(self, limit: float) -> bool:
        """Whether nothing happens before this moment, when the test's time is up; `endless` says so then."""
        if self.until > limit:
            self.endless = "can never go on"
        return bool(self.endless)

    def _is_parked(self, rank: Rank) -> bool:
        """Whether none of its threads goes on by itself, nor by a signal."""
        if rank.number not in self._group.pids():
            return False
        family = self._group.family(rank.number)
        going = family.look().others(rank.waiting_threads)
        return not (going or family.has_timers() or family.catches_signals())
