"""The recording of a run: a header and the group's events, in memory and as lines of JSON.

*Rules.*  What is replayed are the store's operations in their one order, the *entries*, which are a view of
the events.  Values are not recorded: ranks are taken to be deterministic but for the order in which the store
serves them, so that the order alone brings everything back.  Timeouts are entries like others; the machine's
clock has no part in a replay.

A file has one line for the header and one for each event.  Version 0.1 wrote a row for each entry instead
(`elastic-recording/1`); `load` reads both.

*Theory of operation of a replay.*  Each party has its own sequence of requests in the recording.  What it
asks next is compared with that when it comes, before its turn.  The request whose turn it is, is applied; it
must block if it did when recorded, and not if not.  A wait that had timed out does so when that is next.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

from pytest_elastic import events
from pytest_elastic.events import Event, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.pristine import json
from pytest_elastic.replays._order import (
    PATIENCE,
    OrderInterceptor,
    Party,
    mark_of,
    name_party,
    party_of,
)
from pytest_elastic.store import Gate, Request

FORMAT = "elastic-recording/2"
ROWS = "elastic-recording/1"

How = Literal["applied", "blocked", "called", "done", "timed out", "jumped", "gone"]
_ENDINGS = ("done", "timed out", "jumped", "gone")
_WORDS = {"blocked": "waited", "timed out": "timed out", "jumped": "timed out"}
_SLOWER = 10  # How many times what it took when recorded a step may take.


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation of the store, or the end of its wait.

    Attributes:
        rank: whose operation; -1 is the launcher's.
        client: number of the rank's connection (each thread has one), from 0 in the order of first requests.
        how: `"applied"` or `"blocked"` for a request (`"called"`: one of the two, not known which); `"done"`,
            `"timed out"`, `"jumped"` or `"gone"` for the end of a wait.
        name, keys: the operation's.
        at: seconds since the first entry.
        missing: the keys that a blocked request lacked.
    """

    rank: int
    client: int
    how: How
    name: str
    keys: tuple[str, ...] = ()
    at: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def party(self) -> Party:
        """Rank and connection."""
        return self.rank, self.client

    @property
    def begins(self) -> bool:
        """Whether it is a request, rather than the end of a wait."""
        return self.how not in _ENDINGS

    @property
    def expires(self) -> bool:
        """Whether a wait ended by its timeout."""
        return self.how in ("timed out", "jumped")

    def __str__(self) -> str:
        how = f", which {_WORDS[self.how]}" if self.how in _WORDS else ""
        return f"{name_party(self.party)}: {self.name}({', '.join(map(repr, self.keys[:8]))}){how}"


@dataclass(frozen=True)
class Recording:
    """The history of one group.

    Attributes:
        events: what happened, oldest first.
        header: what it is a recording of: `version`, `nprocs`, `test`, `python`, `wake`, `faults`.
        lost: number of older events that are missing; a recording without its beginning cannot be replayed.
    """

    events: tuple[Event, ...]
    header: dict[str, Any] = field(default_factory=dict)
    lost: int = 0

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The store's operations and the ends of waits, in their order."""
        return tuple(entries_of(self.events))

    @property
    def steps(self) -> list[Entry]:
        """The entries that a replay forces: requests, and waits that timed out."""
        return [entry for entry in self.entries if entry.begins or entry.expires]

    @property
    def interrupted(self) -> bool:
        """Whether a call came in the middle of another one of its thread (signal handler or finalizer)."""
        inner = any(isinstance(event, StoreCalled) and event.client < 0 for event in self.events)
        return inner or bool(self.header.get("interrupted"))

    @property
    def faults(self) -> FaultPlan:
        return parse(self.header.get("faults", ""))

    @property
    def mark(self) -> str:
        return mark_of(self.header["test"]) if self.header.get("test") else ""

    @property
    def nprocs(self) -> int:
        nprocs: int = self.header.get("nprocs", 0)
        return nprocs

    def force(self, following: Gate) -> RecordedInterceptor:
        return RecordedInterceptor(self, following)

    def dump(self) -> str:
        """As lines of JSON: the header, then the events."""
        header = json.dumps({"format": FORMAT, **self.header, "lost": self.lost}, separators=(",", ":"))
        return "".join(f"{line}\n" for line in (header, *map(events.dump, self.events)))


def load(text: str) -> list[Recording]:
    """The recordings of a file: those that `Recording.dump` wrote, one after the other.

    Args:
        text: of the file; version 0.1 may have written it.

    Raises:
        ValueError: the text is no recording; with the line and what is wrong.

    >>> from pytest_elastic.events import StoreCalled
    >>> recording = Recording((StoreCalled(5.0, 1, 7, "set", ("key",)),), {"nprocs": 2})
    >>> [again] = load(recording.dump())
    >>> print(*again.entries)
    rank 1: set('key')
    """
    found: list[tuple[dict[str, Any], list[Event]]] = []
    connections: dict[Party, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            if isinstance(row, dict) and "event" not in row:
                if row["format"] not in (FORMAT, ROWS):
                    raise ValueError(f"the format must be {FORMAT!r}, not {row['format']!r}")
                parse(row.get("faults", ""))
                found.append(({"lost": row.pop("lost"), **row}, []))
                connections = {}
            else:
                happened = [events.load(line)] if isinstance(row, dict) else events_of(row, connections)
                found[-1][1].extend(happened)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no recording, line {number}: {type(error).__name__}: {error}")
    if not found:
        raise ValueError("no recording: the text is empty")
    for header, _ in found:
        del header["format"]
    return [Recording(tuple(happened), header, header.pop("lost")) for header, happened in found]


def events_of(row: list[Any], connections: dict[Party, int]) -> list[Event]:
    """The events of a row of version 0.1; connections are numbered as they come."""
    number, client, how, name, asked, moment, *missing = row
    connection = connections.setdefault((int(number), int(client)), len(connections))
    at, rank, keys = float(moment), (None if number < 0 else int(number)), tuple(map(str, asked))
    if how in _ENDINGS:
        return [WaitEnded(at, rank, connection, how)]
    if how not in ("applied", "blocked"):
        raise ValueError(f"an entry that is {how!r}")
    called: list[Event] = [StoreCalled(at, rank, connection, str(name), keys)]
    lacks = tuple(str(key) for keys in missing for key in keys)
    wait = WaitBegan(at, rank, connection, str(name), keys, lacks, 0.0)
    return [*called, wait] if how == "blocked" else called


def entries_of(happened: Iterable[Event]) -> list[Entry]:
    """The entries that events make."""
    entries: list[Entry] = []
    parties: dict[int, Party] = {}
    counts: Counter[int] = Counter()
    calls: dict[int, int] = {}  # By connection: the entry of its last request.
    began: float | None = None
    for event in happened:
        if isinstance(event, StoreCalled):
            began = event.at if began is None else began
            rank = -1 if event.rank is None else event.rank
            if event.client not in parties:
                parties[event.client] = rank, counts[rank]
                counts[rank] += 1
            calls[event.client] = len(entries)
            entries.append(Entry(*parties[event.client], "applied", event.name, event.keys, event.at - began))
        elif isinstance(event, WaitBegan | WaitEnded) and event.client in calls:
            call = entries[calls[event.client]]
            if isinstance(event, WaitBegan):
                entries[calls[event.client]] = replace(call, how="blocked", missing=event.missing)
            else:
                at = event.at - cast(float, began)
                entries.append(replace(call, how=cast(How, event.how), at=at, missing=()))
    return entries


class RecordedInterceptor(OrderInterceptor):
    """Forces the order of a recording."""

    def __init__(self, recording: Recording, following: Gate, patience: float = PATIENCE) -> None:
        """Begin a replay.

        Raises:
            ValueError: the beginning of the recording is missing.
        """
        if recording.lost:
            raise ValueError(f"the first {recording.lost} events of the recording are missing")
        self._order = recording.steps
        super().__init__(len(self._order), following, patience)
        self._own: dict[Party, deque[Entry]] = defaultdict(deque)
        for entry in self._order:
            if entry.begins:
                self._own[entry.party].append(entry)

    def expects(self, request: Request) -> bool:
        own = self._own[party_of(request)]
        if not own:
            return False
        if (own[0].name, own[0].keys) == (request.name, tuple(request.keys)):
            return True
        came = Entry(*party_of(request), "applied", request.name, tuple(request.keys))
        self.diverge(f"  came     {came}", request, str(own[0]))
        return False

    def upcoming(self) -> tuple[Party, str] | None:
        entry = self._order[self.done]
        return entry.party, str(entry)

    def allowance(self) -> float:
        before = self._order[self.done - 1].at if self.done else 0.0
        return self.patience + _SLOWER * (self._order[self.done].at - before)

    def take_step(self) -> bool:
        entry = self._order[self.done]
        waits = self.blocked.get(entry.party)
        if entry.expires:
            if waits is None:
                self.diverge("  which does not wait this time")
                return False
            return self.expire(waits, entry.how == "jumped")
        request = self.held.get(entry.party)
        if request is None:
            if waits is not None:
                self.diverge(f"  which still waits in {waits!r}", waits)
            return False
        self._own[entry.party].popleft()
        self.apply(request)
        blocked = self.blocked.get(entry.party) is request
        if blocked != (entry.how == "blocked"):
            self.diverge(f"  came, and {'has to' if blocked else 'does not'} wait this time", request)
            return False
        return True
