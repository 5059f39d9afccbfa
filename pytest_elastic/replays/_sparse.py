"""Sparse schedules: a recording as the few choices in which it differs from the default scheduler's.

*Theory of operation.*  Two operations that touch no key in common, or only read it, commute: no rank can tell
their order (Mazurkiewicz traces).  So the recording is put in another order that keeps each pair of dependent
operations as it was, and is as close to the default schedule as that allows: the default's choice is taken
where all on which it depends has been done, else the first alternative of which that is true.  The choices
that are not the default's are the delays; a long run in which the order hardly matters has few or none.

Arrivals at a barrier of ours commute, too, but for the last one: `barrier` looks at their number only to find
out whether it is complete.

A rank is blocked in this order exactly if it will be in a replay: from a wait that blocked when recorded
until the first writes since then to all the keys that it lacked.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_elastic.faults import WRITES
from pytest_elastic.replays._order import Party
from pytest_elastic.replays._recording import Entry, Recording
from pytest_elastic.scheduling import Delays, Step, delays_of, ring_order
from pytest_elastic.store import OPERATIONS, Effect, barrier_keys, with_effect

_MOST = 5000
_SURE = WRITES - with_effect(Effect.COMPARE, Effect.DELETE)  # They create their keys in any case.
_ARRIVALS = with_effect(Effect.ARRIVE)


class UnsuitedError(ValueError):
    """A run has no token: a sparse schedule cannot say its order."""


@dataclass(slots=True)
class _Event:
    """One step of the recording.

    Attributes:
        before: the steps of others that have to be done before it.
        wakers: of a wait that blocked: the steps that end it; `None` if none did.
    """

    entry: Entry
    before: set[int] = field(default_factory=set)
    wakers: frozenset[int] | None = None


def sparse(recording: Recording) -> tuple[dict[Party, int], Delays, list[Entry]]:
    """The sparse schedule of a recording: number of steps of each party, delays, entries in its order.

    Raises:
        UnsuitedError: there is none: the launcher took part, the beginning is missing, or there are more than
            5000 steps.
    """
    if recording.lost or any(entry.rank < 0 for entry in recording.entries):
        raise UnsuitedError("the launcher took part, or the beginning is missing")
    events = _events(recording.entries)
    if not 0 < len(events) <= _MOST:
        raise UnsuitedError(f"{len(events)} steps; a token is for 1 to {_MOST}")
    order: list[int] = []
    decisions = list(_decide(events, order))
    counts: dict[Party, int] = defaultdict(int)
    for event in events:
        counts[event.entry.party] += 1
    return dict(counts), delays_of(decisions), [events[number].entry for number in order]


def _decide(events: list[_Event], order: list[int]) -> Iterator[tuple[list[Step], int]]:
    """The choices of the closest order: the enabled steps, and the index of the next one.

    Args:
        order: gets the numbers of the events, in their new order.
    """
    own: dict[Party, deque[int]] = defaultdict(deque)
    for number, event in enumerate(events):
        own[event.entry.party].append(number)
    parties, done, last = sorted(own), set[int](), -1
    waits: dict[Party, _Event] = {}
    while len(done) < len(events):
        for party, wait in list(waits.items()):
            if wait.wakers is not None and wait.wakers <= done:
                del waits[party]
        steps = steps_of([party for party in parties if own[party]], set(waits), parties)
        choice = next(
            index for index in ring_order(steps, last) if _is_ready(steps[index], own, parties, events, done)
        )
        party = parties[steps[choice].rank]
        number = own[party].popleft()
        yield steps, choice
        done.add(number)
        order.append(number)
        last = steps[choice].rank
        waits.pop(party, None)
        if events[number].entry.how == "blocked":
            waits[party] = events[number]


def steps_of(going: list[Party], blocked: set[Party], parties: list[Party]) -> list[Step]:
    """The enabled steps: requests of the parties that are not blocked, then timeouts of those that are."""
    places = {party: place for place, party in enumerate(parties)}
    calls = [Step(places[party], "call", "") for party in going if party not in blocked]
    return calls + [Step(places[party], "expire", "") for party in going if party in blocked]


def _is_ready(
    step: Step, own: dict[Party, deque[int]], parties: list[Party], events: list[_Event], done: set[int]
) -> bool:
    event = events[own[parties[step.rank]][0]]
    return event.entry.expires == (step.kind == "expire") and event.before <= done


def _events(entries: tuple[Entry, ...]) -> list[_Event]:
    """The steps of a recording, with their dependences."""
    events: list[_Event] = []
    waiting: dict[Party, int] = {}
    lasts = {entry.keys[0]: number for number, entry in enumerate(entries) if entry.name in _ARRIVALS}
    dependence = _Dependence()
    for number, entry in enumerate(entries):
        if entry.begins or entry.expires:
            last = entry.name not in _ARRIVALS or lasts[entry.keys[0]] == number
            events.append(_Event(entry, dependence.add(entry, len(events), last)))
            if entry.how == "blocked":
                waiting[entry.party] = len(events) - 1
        elif entry.how == "done":
            began = waiting.pop(entry.party)
            events[began].wakers = _wakers(events, began)
    return events


def _wakers(events: list[_Event], began: int) -> frozenset[int]:
    """The steps that ended a wait: the last one so far, and the first writes to the other missing keys."""
    found, missing = {len(events) - 1}, events[began].entry.missing
    if len(missing) > 1:
        for key in missing:
            later = range(began + 1, len(events))
            writes = [number for number in later if key in _written(events[number].entry)]
            if not writes or any(events[number].entry.name not in _SURE for number in writes):
                raise UnsuitedError(f"it cannot be told which operation made {key!r}")
            found.add(writes[0])
    return frozenset(found)


def _written(entry: Entry) -> tuple[str, ...]:
    operation = OPERATIONS[entry.name]
    if operation.effect is Effect.MEET and entry.begins:
        return barrier_keys(entry.keys[0])
    return entry.keys if operation.changes else ()


class _Dependence:
    """Dependences between steps, by the keys that they touch."""

    def __init__(self) -> None:
        self._wrote: dict[str, int] = {}
        self._read: dict[str, set[int]] = defaultdict(set)
        self._arrived: dict[str, set[int]] = defaultdict(set)
        self._writes: dict[Party, int] = {}  # The last one of each party; those before it come before it.
        self._looks: dict[Party, int] = {}  # Likewise of those at all keys.

    def add(self, entry: Entry, number: int, last: bool) -> set[int]:
        """Add a step; the numbers of the steps on which it depends.

        Args:
            entry: the step.
            number: the step's number.
            last: whether it is the last arrival at its barrier, or no arrival.
        """
        before: set[int] = set()
        written = _written(entry)
        for key in () if written else entry.keys:
            before |= self._arrived[key] | ({self._wrote[key]} if key in self._wrote else set())
            self._read[key].add(number)
        for key in written:
            before |= self._read[key] | ({self._wrote[key]} if key in self._wrote else set())
            if not last:
                self._arrived[key].add(number)
                continue
            before |= self._arrived.pop(key, set())
            self._wrote[key] = number
            self._read[key].clear()
        if OPERATIONS[entry.name].effect is Effect.LIST:
            before |= set(self._writes.values())
            self._looks[entry.party] = number
        elif written:
            before |= set(self._looks.values())
            self._writes[entry.party] = number
        return before
