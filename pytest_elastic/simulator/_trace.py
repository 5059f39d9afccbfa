"""Traces: the happens-before order of an execution, and its races.

*Theory of operation.*  Events of one process are in order; dependent events are in the order in which they
came; the next step of a blocked rank comes after the events that let it continue.  *Happens-before* is the
closure of these three, kept as vector clocks: the clock of an event has, for each process, the number of its
events that came before.  Two executions with the same events and clocks are the same trace, which is what
`canonical` compares.

A *race* is a pair of dependent events of two processes with nothing in between that orders them already.
Blocking operations need care in two places, and textbook algorithms, which know locks only, lose traces on
both:

* A wait that never returns still counts.  A rank that is blocked at the end has *arrived*, and its arrival
  races with the deletion that it came too late for.  Here an arrival is an event like any other, so that it
  can be reversed.
* The write that lets a waiter continue cannot be reversed with the waiter's next step, and does not conflict
  with the wait itself: the search for a race has to look past it, to the deletion before.  Here such a write
  is in the clock of the *rank*, not in that of its wait.

This holds for the answer of a wait that did not block, too: it comes after the write that created the key,
though the wait could have begun before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from pytest_elastic.simulator._dependence import (
    AGAINST,
    CREATE,
    DELETE,
    EVERYTHING,
    LAST,
    MEET,
    Footprint,
    Place,
)

Stamp = tuple[int, ...]

_NOTHING: dict[tuple[int, int], list[int]] = {}


class TraceEvent(NamedTuple):
    """One step of one process.

    Attributes:
        process: the process.
        number: its number among that process's events.
        label: a description, for comparison.
        clock: by process, the number of events that happened before this one or are it.
    """

    process: int
    number: int
    label: object
    clock: Stamp


class Mark(NamedTuple):
    """A point to which a trace can be taken back."""

    events: int
    clocks: list[Stamp]
    creators: dict[Place, int]
    awaited: dict[int, set[Place]]
    met: dict[Place, int]


class Trace:
    """An execution as a partial order; grows by `add`.

    The processes are the ranks, and then, in the same order, the ranks' deadlines.
    """

    def __init__(self, ranks: int) -> None:
        self.events: list[TraceEvent] = []
        self._touched: list[Footprint] = []
        self._ranks = ranks
        self._clocks: list[Stamp] = [(0,) * 2 * ranks] * 2 * ranks
        # By place, process and access.  Only the latest of a kind can race, since it comes after the others.
        self._history: dict[Place, dict[tuple[int, int], list[int]]] = {}
        self._creators: dict[Place, int] = {}
        self._awaited: dict[int, set[Place]] = {}
        self._met: dict[Place, list[int]] = {}

    def add(self, process: int, label: object, touched: Footprint) -> list[int]:
        """Add a step; returns the numbers of the earlier events that it races with, latest first."""
        number, index = len(self.events), self._clocks[process][process]
        clock, races = self._race(self._clocks[process], touched)
        clock = (*clock[:process], index + 1, *clock[process + 1 :])
        self.events.append(TraceEvent(process, index, label, clock))
        self._touched.append(touched)
        rank = process % self._ranks
        self._clocks[rank] = self._clocks[rank + self._ranks] = clock
        self._awaited.pop(rank, None)
        for place, access in touched.items():
            self._history.setdefault(place, {}).setdefault((process, access), []).append(number)
            if access & (CREATE | DELETE | MEET | LAST):
                self._note(place, access, number)
        return races

    def mark(self) -> Mark:
        awaited = {process: set(places) for process, places in self._awaited.items()}
        met = {place: len(numbers) for place, numbers in self._met.items()}
        return Mark(len(self.events), self._clocks[:], self._creators.copy(), awaited, met)

    def rewind(self, mark: Mark) -> None:
        """Take the trace back to a mark."""
        for number in range(mark.events, len(self.events)):
            process = self.events[number].process
            for place, access in self._touched[number].items():
                self._history[place][process, access].pop()
        del self.events[mark.events :], self._touched[mark.events :]
        self._clocks, self._creators = mark.clocks[:], mark.creators.copy()
        self._awaited = {process: set(places) for process, places in mark.awaited.items()}
        self._met = {place: self._met[place][:number] for place, number in mark.met.items()}

    def would_race(self, process: int, touched: Footprint) -> list[tuple[int, list[int]]]:
        """The races of a step that was not done, each with its initials."""
        clock, races = self._race(self._clocks[process], touched)
        number = len(self.events)
        self.events.append(TraceEvent(process, clock[process], None, clock))
        found = [(race, self.initials(race, number)) for race in races]
        self.events.pop()
        return found

    def wait(self, process: int, keys: Iterable[Place], missing: Iterable[Place]) -> None:
        """The last event waits for these keys: its process continues after the events that create them."""
        lacking = set(missing)
        for key in keys:
            if key not in lacking and key in self._creators:
                self.order(self._creators[key], process)
        if lacking:
            self._awaited[process] = lacking

    def order(self, number: int, process: int) -> None:
        """All later events of the process come after this event."""
        self._clocks[process] = _later(self._clocks[process], self.events[number].clock)

    def wake(self, number: int, process: int) -> None:
        """This event lets the process continue, whatever else it waited for."""
        self.order(number, process)
        self._awaited.pop(process, None)

    def jump(self) -> None:
        """All later events come after all earlier ones: time moves when no rank can run."""
        now = self._clocks[0]
        for clock in self._clocks:
            now = _later(now, clock)
        self._clocks = [now] * len(self._clocks)

    def canonical(self) -> tuple[Hashable, ...]:
        """Equal for two executions if and only if they are the same trace."""
        return tuple(sorted(event._replace(label=repr(event.label)) for event in self.events))

    def initials(self, race: int, number: int) -> list[int]:
        """The processes that can begin a continuation in which event `number` comes before event `race`.

        That continuation is: the events after `race` that do not depend on it, then the event itself.
        """
        first, last = self.events[race], self.events[number]
        found: list[int] = []
        before: list[TraceEvent] = []
        for event in self.events[race + 1 : number]:
            if event.clock[first.process] <= first.number:
                if not _follows(event, before):
                    found.append(event.process)
                before.append(event)
        if not _follows(last, before):
            found.append(last.process)
        return found

    def _race(self, clock: Stamp, touched: Footprint) -> tuple[Stamp, list[int]]:
        """The clock after all events that the step depends on, and those of them that it races with."""
        rivals = set()
        for place, access in touched.items():
            against = AGAINST[access]
            for (_, other), numbers in self._history.get(place, _NOTHING).items():
                if against & other and numbers:
                    rivals.add(numbers[-1])
        races = []
        for number in sorted(rivals, reverse=True):
            rival = self.events[number]
            if clock[rival.process] <= rival.number:
                races.append(number)
                clock = _later(clock, rival.clock)
        return clock, races

    def _note(self, place: Place, access: int, number: int) -> None:
        """Record that a key was created or deleted, or that ranks met; waiters continue after that."""
        if access & DELETE:
            self._creators.pop(place, None)
        if access & CREATE and place not in self._creators:
            self._creators[place] = number
            self._admit(place, [number])
        if access & (MEET | LAST) and place != EVERYTHING:
            met = self._met.setdefault(place, [])
            met.append(number)
            if access & LAST:  # All ranks that met continue after all arrivals.
                self._admit(place, met)
                for one in met:
                    self.order(one, self.events[number].process)

    def _admit(self, place: Place, numbers: list[int]) -> None:
        """Processes that wait for the place continue after these events."""
        for process, lacking in self._awaited.items():
            if place in lacking:
                lacking.remove(place)
                for number in numbers:
                    self.order(number, process)


def _later(one: Stamp, other: Stamp) -> Stamp:
    return tuple(map(max, one, other))


def _follows(event: TraceEvent, others: list[TraceEvent]) -> bool:
    """Whether it happened after one of them."""
    return any(event.clock[other.process] > other.number for other in others)
