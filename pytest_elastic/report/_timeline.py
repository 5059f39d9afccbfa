"""The timeline of a run: its events as waits, phases and uses of barriers.  Exporters draw it.

*Rules.*
1. A wait is a blocked request of one connection; without a known answer it lasts to the end.
2. The last write, by another connection, of a key that a wait missed has released it.
3. A barrier's prefix may be used again: joins whose count does not grow begin another meeting.
4. Collectives and messages of process groups are meetings of their members, by name.
5. Events of other kinds are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_elastic.events import (
    BarrierJoined,
    CollectiveJoined,
    Event,
    LineWritten,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStarted,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.hang import GroupCall, Stack
from pytest_elastic.report._usage import Usage, usage_of
from pytest_elastic.store import OPERATIONS

MOST_KEYS = 16  # Of a call, in a text.
LONGEST_KEY, LONGEST_LINE = 200, 2000

_CREATES = frozenset(name for name, operation in OPERATIONS.items() if operation.creates)


@dataclass(frozen=True, slots=True)
class Failure:
    """Of a failed test, what its report says.

    Attributes:
        culprits: the ranks to look at first.
        headline: how many failed.
        summary: the cause.
        text: the traceback of the first failure, with its source.
        sections: (title, text) of all else.
    """

    culprits: Sequence[int]
    headline: str
    summary: str
    text: str
    sections: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A failed test as its exporters get it.

    Attributes:
        title: the test's id.
        nprocs: number of ranks.
        events: all of the run, in any order.
        stacks: of each rank, at the end.
        diagnosis: of a hang, with at least `verdict`, `cause` and `text`; `None` where nothing hung.
        outcome: the test's, in a word.
        graph: the diagnosis in DOT.
        failure: of a test that has failed.
        replay: a command that runs the test in the same order again; `""` for none.
        environment: (name, value) of what the ranks ran in.
        root: the directory from which relative paths in texts begin.
    """

    title: str
    nprocs: int
    events: Sequence[Event]
    stacks: Mapping[int, Sequence[Stack]] = field(default_factory=dict)
    diagnosis: Mapping[str, Any] | None = None
    outcome: str = ""
    graph: str = ""
    failure: Failure | None = None
    replay: str = ""
    environment: Sequence[tuple[str, str]] = ()
    root: str = ""


@dataclass(slots=True)
class WaitSpan:
    """A blocked request; `by` is the call that released it, where one is known."""

    began: WaitBegan
    ended: WaitEnded | None = None
    by: StoreCalled | BarrierJoined | None = None

    @property
    def good(self) -> bool:
        """Whether its keys came."""
        return self.ended is not None and self.ended.how == "done"


@dataclass(slots=True)
class PhaseSpan:
    """A phase of the test on one rank."""

    began: PhaseBegan
    ended: PhaseEnded | None = None


@dataclass(slots=True)
class Meeting:
    """One use of a barrier.

    Attributes:
        expected: number of joins that release it.
        absent: the ranks that never came, if it was not released.
    """

    prefix: str
    expected: int
    joins: list[BarrierJoined]
    absent: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all ranks have joined."""
        return self.joins[-1].count >= self.expected


@dataclass(slots=True)
class Timeline:
    """The events of a run, each list in the order of time.

    Attributes:
        first: the moment of the first event (monotonic clock), 0 if there are none.
        last: that of the last.
    """

    first: float
    last: float
    waits: list[WaitSpan] = field(default_factory=list)
    phases: list[PhaseSpan] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    group_calls: list[GroupCall] = field(default_factory=list)
    starts: list[RankStarted] = field(default_factory=list)
    exits: list[RankExited] = field(default_factory=list)
    stood: list[RankStood] = field(default_factory=list)
    calls: list[StoreCalled] = field(default_factory=list)
    lines: list[LineWritten] = field(default_factory=list)

    def usage(self) -> list[Usage]:
        """Calls, bytes and time of each operation of each process group."""
        return usage_of(self.group_calls, [(wait.began, wait.ended) for wait in self.waits], self.last)

    def absent(self, call: GroupCall, nprocs: int) -> list[int]:
        """The ranks that never joined a call; of a message nobody, unless its end waits in vain."""
        vain = any(call.name == name_of_call(wait.began) for wait in self.waits if not wait.good)
        return [] if call.is_full or (call.is_message and not vain) else call.absent(nprocs)


def name_of_call(began: WaitBegan) -> str:
    """The name of the group call that a wait is for; `""` for other waits."""
    return began.keys[0].rpartition("/")[0] if began.name == "meet" and began.keys else ""


def timeline_of(history: RunHistory) -> Timeline:
    """Put the events of a run together."""
    events = sorted(history.events, key=lambda event: event.at)
    timeline = Timeline(events[0].at, events[-1].at) if events else Timeline(0.0, 0.0)
    builder = Builder(timeline, history.nprocs)
    for event in events:
        builder.take(event)
    for meeting in timeline.meetings:
        if not meeting.complete:
            arrived = {join.rank for join in meeting.joins}
            meeting.absent = [rank for rank in range(history.nprocs) if rank not in arrived]
    return timeline


def cut(text: str, most: int) -> str:
    """The text, or its first `most` characters and the number of the others."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


class Builder:
    """Fills a timeline with events, which come in order."""

    def __init__(self, timeline: Timeline, nprocs: int) -> None:
        self._timeline, self._nprocs = timeline, nprocs
        self._waits: dict[tuple[int | None, int], WaitSpan] = {}
        self._phases: dict[tuple[int | None, str], PhaseSpan] = {}
        self._meetings: dict[str, Meeting] = {}
        self._calls: dict[str, GroupCall] = {}
        self._writes: dict[str, StoreCalled | BarrierJoined] = {}
        self._plain: dict[type[Event], list[Any]] = {
            RankStarted: timeline.starts,
            RankExited: timeline.exits,
            RankStood: timeline.stood,
            LineWritten: timeline.lines,
        }

    def take(self, event: Event) -> None:
        match event:
            case StoreCalled():
                self.call(event)
            case BarrierJoined():
                self.join(event)
            case CollectiveJoined():
                self.join_call(event)
            case WaitBegan():
                wait = self._waits[event.rank, event.client] = WaitSpan(event)
                self._timeline.waits.append(wait)
            case WaitEnded():
                self.end_wait(event)
            case PhaseBegan():
                phase = self._phases[event.rank, event.phase] = PhaseSpan(event)
                self._timeline.phases.append(phase)
            case PhaseEnded():
                if begun := self._phases.pop((event.rank, event.phase), None):
                    begun.ended = event
            case _ if type(event) in self._plain:
                self._plain[type(event)].append(event)

    def call(self, call: StoreCalled) -> None:
        self._timeline.calls.append(call)
        if call.name in _CREATES and call.changed:
            self._writes.update(dict.fromkeys(call.keys, call))

    def join(self, join: BarrierJoined) -> None:
        meeting = self._meetings.get(join.prefix)
        if meeting is None or meeting.complete or join.count <= meeting.joins[-1].count:
            meeting = Meeting(join.prefix, join.world_size or self._nprocs, [])
            self._meetings[join.prefix] = meeting
            self._timeline.meetings.append(meeting)
        meeting.joins.append(join)
        self._writes[join.prefix] = join

    def join_call(self, join: CollectiveJoined) -> None:
        name = f"{join.group}#{join.number}"
        call = self._calls.get(name)
        if call is None or join.rank in call.calls:
            call = self._calls[name] = GroupCall(name, join.group, join.number, join.members)
            self._timeline.group_calls.append(call)
        if join.rank is not None:
            call.join(join)

    def end_wait(self, ended: WaitEnded) -> None:
        wait = self._waits.pop((ended.rank, ended.client), None)
        if wait is None:
            return
        wait.ended = ended
        if wait.good:
            wait.by = self.release_of(wait.began)

    def release_of(self, began: WaitBegan) -> StoreCalled | BarrierJoined | None:
        """Rule 2."""
        writes = [self._writes[key] for key in began.missing if key in self._writes]
        later = [one for one in writes if one.at >= began.at and one.client != began.client]
        return max(later, key=lambda one: one.at, default=None)
