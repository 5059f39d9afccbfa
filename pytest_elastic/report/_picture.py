"""What a picture of a run shows: events put together into spans and meetings; no pixels here.

*Rules.*
1. A wait is what one connection asked for and waited for; it is open to the end where no answer is known.
2. What released a wait is the last write, by another connection, of a key that it missed.
3. A barrier's prefix may be used again: joins whose count does not grow begin another meeting.
4. Kinds of events that have nothing to be seen are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_elastic.events import (
    BarrierJoined,
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
from pytest_elastic.hang import Stack
from pytest_elastic.store import OPERATIONS

MOST_KEYS = 16  # Of a call, in what people read.
LONGEST_KEY, LONGEST_LINE = 200, 2000

_CREATES = frozenset(name for name, operation in OPERATIONS.items() if operation.creates)


@dataclass(frozen=True, slots=True)
class Picture:
    """A run to be shown.

    Attributes:
        title: the test's id.
        nprocs: how many ranks.
        events: what happened, in any order.
        stacks: where each rank stood at the end.
        diagnosis: why it hangs, with at least `verdict`, `cause` and `text`.
        outcome: the test's, in a word.
    """

    title: str
    nprocs: int
    events: Sequence[Event]
    stacks: Mapping[int, Sequence[Stack]] = field(default_factory=dict)
    diagnosis: Mapping[str, Any] | None = None
    outcome: str = ""


@dataclass(slots=True)
class Wait:
    """A blocked request; `by` is the call that released it, where one is known."""

    began: WaitBegan
    ended: WaitEnded | None = None
    by: StoreCalled | BarrierJoined | None = None

    @property
    def good(self) -> bool:
        """Whether it got what it waited for."""
        return self.ended is not None and self.ended.how == "done"


@dataclass(slots=True)
class Phase:
    """A phase on one rank."""

    began: PhaseBegan
    ended: PhaseEnded | None = None


@dataclass(slots=True)
class Meeting:
    """One use of a barrier.

    Attributes:
        expected: how many joins release it.
        absent: the ranks that never came, if it was not released.
    """

    prefix: str
    expected: int
    joins: list[BarrierJoined]
    absent: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all have come."""
        return self.joins[-1].count >= self.expected


@dataclass(slots=True)
class Scene:
    """The picture's contents, each list in the order of time.

    Attributes:
        first: the moment of the first event (monotonic clock), 0 if there are none.
        last: that of the last.
    """

    first: float
    last: float
    waits: list[Wait] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    starts: list[RankStarted] = field(default_factory=list)
    exits: list[RankExited] = field(default_factory=list)
    stood: list[RankStood] = field(default_factory=list)
    calls: list[StoreCalled] = field(default_factory=list)
    lines: list[LineWritten] = field(default_factory=list)


def compose(picture: Picture) -> Scene:
    """Put the events together."""
    events = sorted(picture.events, key=lambda event: event.at)
    scene = Scene(events[0].at, events[-1].at) if events else Scene(0.0, 0.0)
    composer = _Composer(scene, picture.nprocs)
    for event in events:
        composer.take(event)
    for meeting in scene.meetings:
        if not meeting.complete:
            arrived = {join.rank for join in meeting.joins}
            meeting.absent = [rank for rank in range(picture.nprocs) if rank not in arrived]
    return scene


def cut(text: str, most: int) -> str:
    """The text, or its beginning and how much is not there."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


class _Composer:
    """Takes events in order and fills a scene."""

    def __init__(self, scene: Scene, nprocs: int) -> None:
        self._scene, self._nprocs = scene, nprocs
        self._waits: dict[tuple[int | None, int], Wait] = {}
        self._phases: dict[tuple[int | None, str], Phase] = {}
        self._meetings: dict[str, Meeting] = {}
        self._writes: dict[str, StoreCalled | BarrierJoined] = {}
        self._plain: dict[type[Event], list[Any]] = {
            RankStarted: scene.starts,
            RankExited: scene.exits,
            RankStood: scene.stood,
            LineWritten: scene.lines,
        }

    def take(self, event: Event) -> None:
        match event:
            case StoreCalled():
                self._call(event)
            case BarrierJoined():
                self._join(event)
            case WaitBegan():
                wait = self._waits[event.rank, event.client] = Wait(event)
                self._scene.waits.append(wait)
            case WaitEnded():
                self._end_wait(event)
            case PhaseBegan():
                phase = self._phases[event.rank, event.phase] = Phase(event)
                self._scene.phases.append(phase)
            case PhaseEnded():
                if begun := self._phases.pop((event.rank, event.phase), None):
                    begun.ended = event
            case _ if type(event) in self._plain:
                self._plain[type(event)].append(event)

    def _call(self, call: StoreCalled) -> None:
        self._scene.calls.append(call)
        if call.name in _CREATES and call.changed:
            self._writes.update(dict.fromkeys(call.keys, call))

    def _join(self, join: BarrierJoined) -> None:
        meeting = self._meetings.get(join.prefix)
        if meeting is None or meeting.complete or join.count <= meeting.joins[-1].count:
            meeting = Meeting(join.prefix, join.world_size or self._nprocs, [])
            self._meetings[join.prefix] = meeting
            self._scene.meetings.append(meeting)
        meeting.joins.append(join)
        self._writes[join.prefix] = join

    def _end_wait(self, ended: WaitEnded) -> None:
        wait = self._waits.pop((ended.rank, ended.client), None)
        if wait is None:
            return
        wait.ended = ended
        if wait.good:
            wait.by = self._released(wait.began)

    def _released(self, began: WaitBegan) -> StoreCalled | BarrierJoined | None:
        writes = [self._writes[key] for key in began.missing if key in self._writes]
        later = [one for one in writes if one.at >= began.at and one.client != began.client]
        return max(later, key=lambda one: one.at, default=None)
