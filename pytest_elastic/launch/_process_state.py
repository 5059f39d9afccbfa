"""The company of a waiting thread: threads and processes that may go on, and let the thread go on, too."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import RankInspected
from pytest_elastic.hang import Rank, WaitGraph
from pytest_elastic.processes import Family, Sight
from pytest_elastic.store import StoreServer

CONFIRM = 1.0  # Seconds without any use of the processor.
_SOON, _LATE = 0.02, 0.5  # Seconds between two looks at a suspected group, at first and at last.
_AT_ONCE = 0.0002  # And where threads are about to wait.


@dataclass(frozen=True, slots=True)
class Company:
    """The process of a rank, and those below it.

    Attributes:
        known: how many threads of the rank wait for us.
        inspected: what it said of the others; `None` if it did not.
        idle: whether its main thread waits for orders: it has reported the end of a phase, and from before
            that until the next order runs no code but ours.
        ends: whether its threads, if they go on, may end a wait.
    """

    family: Family
    known: int
    inspected: RankInspected | None
    idle: bool = False
    ends: bool = True

    def going(self) -> int:
        """How many threads and children may go on, as far as is known."""
        sight, timers = self.family.look(), self.family.has_timers()
        found = sight.others(self.known) + timers
        if not found or self.inspected is None:
            return found
        threads = self._writing(sight, self.inspected) + len(self.inspected.strangers)
        # Whoever reports is put aside for those who hear of it, and has not come to wait when they look.
        on_its_way = self.idle and self.known == 1 and not self.inspected.handlers
        threads += not (on_its_way or sight.receives(self.known))
        return threads + sight.children + timers

    def is_still(self, group: Collection[int]) -> bool:
        """Whether nothing that may write would go on by itself; `group` are the pids of its processes."""
        if self.family.has_timers() or not self.family.look().receives(self.known):
            return False
        if self.inspected is None:
            return self.family.lasts(self.known, group)
        seen = self.inspected
        # Any thread can send a signal.
        acting = (*seen.writers, *seen.strangers) if seen.handlers else seen.writers
        return not self.counts() or self.family.lasts(self.known - 1, group, acting)

    def counts(self) -> bool:
        """Whether it matters what its processes do."""
        seen = self.inspected
        if seen is None or seen.handlers or seen.cpu_alarm:
            return True
        return self.ends and self._writing(self.family.look(), seen) > 0

    def _writing(self, sight: Sight, seen: RankInspected) -> int:
        """How many threads may write, beyond those that wait in the store, of which one has answered."""
        return max(0, sight.going(seen.writers) - (self.known - 1))


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A group that may hang, if nothing changes.

    Attributes:
        events: how many there had been.
        ticks: processor time of each process that counts, by its place among their families and its pid:
            on several machines there may be two of one number.
        since: when it was first seen so.
    """

    events: int
    ticks: dict[tuple[int, int], int]
    since: float

    @classmethod
    def of(cls, there: Sequence[Company], events: int, before: Suspicion | None) -> Suspicion:
        """The one that there is now: the one before, if nothing has changed since."""
        counted = [one.family for one in there if one.counts()]
        ticks = {
            (place, pid): used for place, family in enumerate(counted) for pid, used in family.ticks().items()
        }
        if before is not None and (before.events, before.ticks) == (events, ticks):
            return before
        return cls(events, ticks, SYSTEM_CLOCK.monotonic())

    def is_confirmed(self, there: Sequence[Company]) -> bool:
        """Whether it has lasted, and will."""
        waited = SYSTEM_CLOCK.monotonic() - self.since
        pids = {pid for _, pid in self.ticks}
        return waited >= CONFIRM and bool(there) and all(one.is_still(pids) for one in there)


class Watched(Protocol):
    """What is needed of the group."""

    server: StoreServer

    def pids(self) -> dict[int, int]:
        """Rank -> process id."""

    def family(self, rank: int) -> Family:
        """The process of a rank that was started, and those below it."""


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
        self._families: dict[int, Family] = {}  # Those that were looked at.
        # Where nothing went on: when that was, how many waited, and what the rank had said.
        self._at_rest: dict[int, tuple[bytes, int, RankInspected | None]] = {}
        self._pause = _AT_ONCE
        self.suspicion: Suspicion | None = None

    def close(self) -> None:
        """Let go of what is open for the next looks; idempotent."""
        for rank in list(self._families):
            self.dismiss(rank)

    def dismiss(self, rank: int) -> None:
        """This rank's process is gone."""
        if rank in self._families:
            self._families.pop(rank).close()

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
        self._pause = _AT_ONCE
        if rank in self._asked or rank in self._inspected:
            self._inspected.pop(rank, None)
            self._asked.discard(rank)

    def are_closed(self, graph: WaitGraph, still: bool, age: float) -> bool:
        """Whether the waiting threads alone could end the waits of ranks that do not run; asks the others.

        Args:
            still: whether no rank runs.
            age: seconds since the last event.
        """
        closed, pids, ends = True, self._group.pids(), enders(graph)
        for rank in graph.ranks:
            if rank.exited is None and not rank.runs and rank.number in ends:
                rank.extra_threads = self._going(rank, pids)
                if rank.extra_threads and rank.ended is None:
                    self._ask(rank.number, age)
                closed = closed and not rank.extra_threads
        if closed and not (still and len(ends) == len(graph.ranks)):  # A thread may send a signal.
            for number in {wait.rank for wait in graph.doomed}.intersection(pids):
                closed &= not self._family(number).catches_signals() or self._handles_none(number, age)
        return closed

    def are_confirmed(self, graph: WaitGraph, events: int, age: float) -> bool:
        """Whether a suspected group, after so many events, has stood still for long enough."""
        if age < _SOON:  # While events still come a suspicion need not begin.
            self.suspicion = None
            return False
        pids, ends = self._group.pids(), enders(graph)
        there = [
            self._of(rank, rank.number in ends)
            for rank in graph.ranks
            if rank.exited is None and rank.number in pids
        ]
        self.suspicion = Suspicion.of(there, events, self.suspicion)
        return self.suspicion.is_confirmed(there)

    def next_look(self) -> float:
        """Seconds until a group is to be looked at again: soon after the last event soon.

        Not by its age: whoever told of it late, as a rank that has made a long report, is as soon at rest.
        """
        if self.suspicion is None:
            pause, self._pause = self._pause, min(_SOON, 2 * self._pause)
            return pause
        return min(_LATE, max(_SOON, SYSTEM_CLOCK.monotonic() - self.suspicion.since))

    def _ask(self, rank: int, age: float) -> None:
        """Not at once where a thread runs: it may be about to wait for the answer to its request."""
        family = self._families.get(rank)
        if rank not in self._asked and not (age < _SOON and family and family.runs):
            self._asked.add(rank)
            self._group.server.inspect(rank)

    def _handles_none(self, rank: int, age: float) -> bool:
        """Whether the handlers of its signals are harmless, as those are that only C has; it is asked."""
        self._ask(rank, age)
        seen = self._inspected.get(rank)
        return seen is not None and not seen.handlers

    def _going(self, rank: Rank, pids: Mapping[int, int]) -> int:
        """As its company says; where none of its threads has run since, nothing has changed."""
        number = rank.number
        if number not in pids:
            return 1
        stamp = self._family(number).stamp()
        now = (stamp, _known(rank), self._inspected.get(number))
        if stamp and self._at_rest.get(number) == now:
            return 0
        self._at_rest.pop(number, None)
        going = self._of(rank).going()
        if stamp and not going:
            self._at_rest[number] = now
        return going

    def _of(self, rank: Rank, ends: bool = True) -> Company:
        family = self._family(rank.number)
        idle = rank.ended is not None
        return Company(family, _known(rank), self._inspected.get(rank.number), idle, ends)

    def _family(self, rank: int) -> Family:
        if rank not in self._families:
            self._families[rank] = self._group.family(rank)
        return self._families[rank]


def _known(rank: Rank) -> int:
    """How many of its threads wait for us; where its phase has ended the main one does, for orders."""
    return rank.waiting_threads + (rank.ended is not None)


def enders(graph: WaitGraph) -> Collection[int]:
    """The ranks whose threads may end a wait: where all waits are in calls of groups, those they wait for.

    No other rank can come in their place, whatever its threads do meanwhile.
    """
    waits = graph.waits()
    if any(wait.call is None or not wait.writers or wait.patient for wait in waits):
        return range(len(graph.ranks))
    return {wait.writers[key] for wait in waits for key in wait.lacks}
