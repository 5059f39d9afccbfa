"""What a served store did, in its one order: a recording, in memory and as JSON lines.

*Rules.*  An entry is made when a request is applied, and when a blocked one ends.  Values are not recorded:
ranks are taken to be deterministic but for the order in which the store serves them, so that the order alone
brings everything back.  Timeouts are entries like others; a machine's clock has no part in a replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pytest_elastic.events import Event, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.pristine import json
from pytest_elastic.store import Request

FORMAT = "elastic-recording/1"

How = Literal["applied", "blocked", "called", "done", "timed out", "jumped", "gone"]
Party = tuple[int, int]  # A rank and the number of its connection; rank -1 is the launcher.
_FIRST = ("applied", "blocked", "called")
_HOWS = (*_FIRST, "done", "timed out", "jumped", "gone")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        rank: who asked; -1 is the launcher.
        client: which of its connections (threads), from 0.
        how: `"applied"` or `"blocked"`: the request came (`"called"`: one of the two); else it had been
            blocked, and ended so.
        name, keys: the operation's.
        at: seconds since the recording began.
        missing: of one that is blocked: the keys that are not there.
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
        """Whose request it is."""
        return self.rank, self.client

    @property
    def begins(self) -> bool:
        """Whether the request came, rather than ended."""
        return self.how in _FIRST

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
        entries: in their order.
        header: what it is a recording of: version, nprocs, test, python, wake, faults; `interrupted` where a
            call came in the middle of another one of its thread (by a signal's handler, or a finalizer).
        lost: how many entries from its beginning are not here: it cannot be replayed then.
    """

    entries: tuple[Entry, ...]
    header: dict[str, Any] = field(default_factory=dict)
    lost: int = 0

    def dump(self) -> str:
        """As lines of JSON: the header, then the entries."""
        header = {"format": FORMAT, **self.header, "lost": self.lost}
        lines = [header, *map(_row, self.entries)]
        return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def name_party(party: Party) -> str:
    """In words."""
    rank, client = party
    thread = f" (connection {client})" if client else ""
    return f"{'the launcher' if rank < 0 else f'rank {rank}'}{thread}"


_WORDS = {"blocked": "waited", "timed out": "timed out", "jumped": "timed out"}


def load(text: str) -> list[Recording]:
    """The recordings that were dumped one after the other.

    Raises:
        ValueError: the text is none; with the line and what is wrong.
    """
    recordings: list[Recording] = []
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                header = dict(row)
                if header.pop("format") != FORMAT:
                    raise ValueError(f"the format must be {FORMAT!r}, not {row['format']!r}")
                entries = []
                recordings.append(Recording((), header, header.pop("lost")))
            else:
                entries.append(_entry(row))
                last = recordings[-1]
                recordings[-1] = Recording(tuple(entries), last.header, last.lost)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no recording, line {number}: {type(error).__name__}: {error}")
    if not recordings:
        raise ValueError("no recording: the text is empty")
    return recordings


def _row(entry: Entry) -> list[Any]:
    row = [entry.rank, entry.client, entry.how, entry.name, list(entry.keys), round(entry.at, 6)]
    return [*row, list(entry.missing)] if entry.missing else row


def _entry(row: list[Any]) -> Entry:
    rank, client, how, name, keys, at, *missing = row
    if how not in _HOWS or len(missing) > 1:
        raise ValueError(f"an entry that is {how!r}" if how not in _HOWS else f"{len(row)} fields")
    lacks = tuple(map(str, missing[0])) if missing else ()
    return Entry(int(rank), int(client), how, str(name), tuple(map(str, keys)), float(at), lacks)


def party_of(request: Request) -> Party:
    """Whose request it is."""
    label: Hashable = request.label
    return (label if isinstance(label, int) else -1), request.client


def recorded(events: Iterable[Event], header: dict[str, Any], lost: int = 0) -> Recording:
    """The recording of what a server told.

    Args:
        events: in their order.
        header: of the recording.
        lost: how many events before those are missing.
    """
    entries: list[Entry] = []
    parties: dict[int, Party] = {}
    counts: Counter[int] = Counter()
    pending: dict[int, int] = {}  # By connection: the entry of its last request.
    began = 0.0
    for event in events:
        if isinstance(event, StoreCalled):
            rank = -1 if event.rank is None else event.rank
            if event.client < 0:
                header = {**header, "interrupted": True}
            if event.client not in parties:
                parties[event.client] = rank, counts[rank]
                counts[rank] += 1
            began = began or event.at
            pending[event.client] = len(entries)
            entries.append(Entry(*parties[event.client], "applied", event.name, event.keys, event.at - began))
        elif isinstance(event, WaitBegan | WaitEnded) and event.client in pending:
            call = entries[pending[event.client]]
            if isinstance(event, WaitBegan):
                entries[pending[event.client]] = replace(call, how="blocked", missing=event.missing)
            else:
                how: Any = event.how
                entries.append(replace(call, how=how, at=event.at - began, missing=()))
    return Recording(tuple(entries), header, lost)
