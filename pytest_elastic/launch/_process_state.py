"""The company of a waiting thread: threads and processes that may go on, and let the thread go on, too."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import RankInspected
from pytest_elastic.hang import Rank, WaitGraph
from pytest_elastic.processes import Family, catches_signals, children, has_timers
from pytest_elastic.store import StoreServer

CONFIRM = 1.0  # Seconds without any use of the processor.
_SOON, _LATE = 0.002, 0.5  # Seconds between two looks at a group, at first and at last.


@dataclass(frozen=True, slots=True)
class Company:
    """The process of a rank, and those below it.

    Attributes:
        known: how many threads of the rank wait for us.
        inspected: what it said of the others; `None` if it did not.
        ends: whether its threads, if they go on, may end a wait.
    """

    family: Family
    known: int
    inspected: RankInspected | None
    ends: bool = True

    def going(self) -> int:
        """How many threads and children may go on, as far as is known."""
        timers = has_timers(self.family.pid)
        found = self.family.others(self.known) + timers
        if not found or self.inspected is None:
            return found
        threads = self._writing(self.inspected) + len(self.inspected.strangers)
        threads += not self.family.receives(self.known)
        return threads + len(children(self.family.pid)) + timers

    def is_still(self, ticks: dict[int, int]) -> bool:
        """Whether nothing that may write would go on by itself; `ticks` are the processes of the group."""
        if has_timers(self.family.pid) or not self.family.receives(self.known):
            return False
        if self.inspected is None:
            return self.family.lasts(self.known, ticks)
        seen = self.inspected
        # Any thread can send a signal.
        acting = (*seen.writers, *seen.strangers) if seen.handlers else seen.writers
        return not self.counts() or self.family.lasts(self.known - 1, ticks, acting)

    def counts(self) -> bool:
        """Whether it matters what its processes do."""
        seen = self.inspected
        return seen is None or seen.handlers or seen.cpu_alarm or (self.ends and self._writing(seen) > 0)

    def _writing(self, seen: RankInspected) -> int:
        """How many threads may write, beyond those that wait in the store, of which one has answered."""
        return max(0, self.family.going(seen.writers) - (self.known - 1))


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A group that may hang, if nothing changes.

    Attributes:
        events: how many there had been.
        ticks: processor time of each process that counts.
        since: when it was first seen so.
    """

    events: int
    ticks: dict[int, int]
    since: float

    @classmethod
    def of(cls, there: Sequence[Company], events: int, before: Suspicion | None) -> Suspicion:
        """The one that there is now: the one before, if nothing has changed since."""
        counted = [one.family for one in there if one.counts()]
        ticks = {pid: used for family in counted for pid, used in family.ticks().items()}
        if before is not None and (before.events, before.ticks) == (events, ticks):
            return before
        return cls(events, ticks, SYSTEM_CLOCK.monotonic())

    def is_confirmed(self, there: Sequence[Company]) -> bool:
        """Whether it has lasted, and will."""
        waited = SYSTEM_CLOCK.monotonic() - self.since
        return waited >= CONFIRM and bool(there) and all(one.is_still(self.ticks) for one in there)


class Watched(Protocol):
    """What is needed of the group."""

    server: StoreServer

    def pids(self) -> dict[int, int]:
        """Rank -> process id."""


class Companies:
    """Those of all ranks that wait, as far as the kernel and the ranks tell.

    Attributes:
        suspicion: that the group hangs; `None` while there is none.
    """

    def __init__(self, group: Watched) -> None:
        self._group = group
        self._inspected: dict[int, RankInspected] = {}
        self._asked: set[int] = set()
        self._alarms: dict[int, float] = {}  # Rank -> when its interval timer goes off.
        self._at_rest: dict[int, tuple[bytes, Company]] = {}  # Where nothing went on, and when that was.
        self.suspicion: Suspicion | None = None

    def learn(self, event: RankInspected) -> None:
        """A rank has said what else may go on in its process."""
        if event.rank is not None:
            self._inspected[event.rank] = event
            self.arm(event.rank, event.at, event.alarm)

    def arm(self, rank: int | None, at: float, alarm: float) -> None:
        """Note that the interval timer of a rank goes off so many seconds after `at`; 0 are never."""
        if rank is not None:
            self._alarms.pop(rank, None)
            if alarm:
                self._alarms[rank] = at + alarm

    def next_alarm(self, graph: WaitGraph) -> float:
        """When the first interval timer of a rank that waits goes off, `inf` for never.

        A rank whose timer should have gone off is asked; it is armed until it has answered.
        """
        now, nearest = SYSTEM_CLOCK.monotonic(), math.inf
        for number, at in list(self._alarms.items()):
            rank = graph.ranks[number]
            if rank.runs:
                continue
            if at <= now and rank.gone:  # It answers nothing.
                del self._alarms[number]
                continue
            if at <= now:
                self._group.server.inspect(number)
            nearest = min(nearest, max(at, now))
        return nearest

    def forget(self, rank: int | None) -> None:
        """A rank has done something, and what it said is no longer so."""
        if rank in self._asked or rank in self._inspected:
            self._inspected.pop(rank, None)
            self._asked.discard(rank)

    def are_closed(self, graph: WaitGraph, still: bool) -> bool:
        """Whether the waiting threads alone could end the waits of ranks that do not run; asks the others.

        Args:
            still: whether no rank runs.
        """
        closed, pids, ends = True, self._group.pids(), enders(graph)
        for rank in graph.ranks:
            if rank.exited is None and not rank.runs and rank.number in ends:
                company = self._of(rank)
                rank.extra_threads = 1 if company is None else self._going(rank.number, company)
                if rank.extra_threads and rank.ended is None and rank.number not in self._asked:
                    self._asked.add(rank.number)
                    self._group.server.inspect(rank.number)
                closed = closed and not rank.extra_threads
        if closed and not (still and len(ends) == len(graph.ranks)):  # A thread may send a signal.
            doomed = {wait.rank for wait in graph.doomed}
            closed = not any(rank in pids and catches_signals(pids[rank]) for rank in doomed)
        return closed

    def are_confirmed(self, graph: WaitGraph, events: int) -> bool:
        """Whether a suspected group, after so many events, has stood still for long enough."""
        ends = enders(graph)
        there = [
            one
            for rank in graph.ranks
            if rank.exited is None and (one := self._of(rank, rank.number in ends))
        ]
        self.suspicion = Suspicion.of(there, events, self.suspicion)
        return self.suspicion.is_confirmed(there)

    def next_look(self, since: float) -> float:
        """Seconds until the group is to be looked at again, whose last event was at `since`.

        At first soon: a rank that has just reported is on its way to wait for orders.
        """
        waited = SYSTEM_CLOCK.monotonic() - (since if self.suspicion is None else self.suspicion.since)
        return min(_LATE, max(_SOON, waited))

    def _going(self, rank: int, company: Company) -> int:
        """As the company says; where its only thread has not run since, nothing has changed."""
        now = (company.family.stamp(), company)
        if now[0] and self._at_rest.get(rank) == now:
            return 0
        self._at_rest.pop(rank, None)
        going = company.going()
        if now[0] and not going:
            self._at_rest[rank] = now
        return going

    def _of(self, rank: Rank, ends: bool = True) -> Company | None:
        pid = self._group.pids().get(rank.number)
        if pid is None:
            return None
        # The main thread of one that has ended its phase waits for orders.
        known = rank.waiting_threads + (rank.ended is not None)
        return Company(Family(pid), known, self._inspected.get(rank.number), ends)


def enders(graph: WaitGraph) -> Collection[int]:
    """The ranks whose threads may end a wait: where all waits are in calls of groups, those they wait for.

    No other rank can come in their place, whatever its threads do meanwhile.
    """
    waits = graph.waits()
    if any(wait.call is None or not wait.writers or wait.patient for wait in waits):
        return range(len(graph.ranks))
    return {wait.writers[key] for wait in waits for key in wait.lacks}
