"""Nodes of a wait graph: ranks, waits and barriers.  Only the graph changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_elastic.events import PhaseEnded, RankExited, RankStood, WaitBegan

if TYPE_CHECKING:
    from pytest_elastic.hang._group_calls import GroupCall


@dataclass(slots=True, eq=False)
class Wait:
    """A blocked request.

    Attributes:
        event: its begin.
        rank: the rank; `client` is its thread.
        writers: for each of its keys the one rank that may write it; empty where any rank may.
        lacks: the keys that are not there yet, in the order asked; a dictionary, to cross one out quickly.
        free: whether any rank may end it: it is for plain keys only.
        alarmed: whether a signal's handler is due, which may end it.
        call: the collective or message that it is for; `None` for keys.
    """

    event: WaitBegan
    rank: int
    client: int
    writers: dict[str, int]
    lacks: dict[str, None]
    free: bool
    alarmed: bool = False
    call: GroupCall | None = None

    @property
    def patient(self) -> bool:
        """Whether it will end, or its rank will go on, without any other rank."""
        return self.alarmed or self.event.may_timeout

    @property
    def missing(self) -> tuple[str, ...]:
        """The keys that are not there yet, in the order asked."""
        return tuple(self.lacks)

    def stuck(self, able: int, barriers: Mapping[str, Barrier]) -> list[str]:
        """The missing keys that none of these ranks can bring; barriers are by their last key."""
        if self.writers:
            return [key for key in self.lacks if not able >> self.writers[key] & 1]
        found = []
        for key in self.lacks:
            barrier = barriers.get(key)
            if not (able if barrier is None else barrier.may_open(able)):
                found.append(key)
        return found

    @property
    def deadline(self) -> float:
        """The moment at which it fails by itself, on the events' clock."""
        return self.event.at + self.event.timeout


@dataclass(slots=True, eq=False)
class Barrier:
    """A barrier of ours that has not been released.

    Attributes:
        count: number of calls so far.
        joined: bits of the ranks that called it; of those, `left` have given up waiting.
        releaser: the rank whose call was the last one, and which is about to release the others.
        declared: whether its members are ranks, each of which calls it once, and all say one `world_size`.
    """

    prefix: str
    world_size: int
    declared: bool
    count: int = 0
    joined: int = 0
    left: int = 0
    releaser: int | None = None

    def may_open(self, able: int) -> bool:
        """Whether the ranks with these bits can release it."""
        if self.releaser is not None:
            return bool(able >> self.releaser & 1)
        if not self.declared:
            return bool(able)
        return (able & (~self.joined | self.left)).bit_count() >= self.world_size - self.count


@dataclass(slots=True, eq=False)
class Rank:
    """A rank, as known from its events.

    Attributes:
        bit: of the number.
        clients: its threads that use the store, and (negative) the calls in the middle of a call of one of
            those; `waits` are those of them that are blocked.
        ended: the end of its phase; `None` while it is in one.
        stood: its last state by the kernel; `None` once it made another request.
        words: what it waits for outside of the store, as its stack says; `""` where that is not known.
        place: the user's line where it stands, by its stack: `train.py:12`; else `""`.
        repeats: in words, that it makes one request again and again; `""` where it does not.
        extra_threads: number of its threads that never used the store.
        unseen: whether its main thread runs but is none of `clients`: all those were blocked when a phase
            began.
        phased: whether it was told to run phases, so that an exit without a report is an accident.
        calls: number of its requests; `barriers` of them joined a barrier, `collectives` a group call.
    """

    number: int
    bit: int
    clients: set[int] = field(default_factory=set)
    waits: dict[int, Wait] = field(default_factory=dict)
    ended: PhaseEnded | None = None
    exited: RankExited | None = None
    stood: RankStood | None = None
    words: str = ""
    place: str = ""
    repeats: str = ""
    extra_threads: int = 0
    unseen: bool = False
    phased: bool = False
    calls: int = 0
    barriers: int = 0
    collectives: int = 0

    @property
    def gone(self) -> bool:
        """Whether it will write nothing more."""
        return self.ended is not None or self.exited is not None

    @property
    def died(self) -> bool:
        """Whether its process ended without a report that explains it."""
        return self.exited is not None and (self.ended is None or self.ended.outcome == "passed")

    @property
    def is_accident(self) -> bool:
        """Whether it is gone, and should not be."""
        if self.ended is not None and self.ended.outcome in ("failed", "exit"):
            return True
        if self.exited is None:
            return False
        return self.exited.exitcode != 0 or (self.phased and self.ended is None)

    @property
    def gone_at(self) -> float:
        """When it ended its phase, or its process did."""
        return min(event.at for event in (self.ended, self.exited) if event is not None)

    @property
    def reason(self) -> str:
        """Why we ended its process; `""` where we did not."""
        return "" if self.exited is None else self.exited.text

    @property
    def has_more_threads(self) -> bool:
        """Whether a thread may write that is not known to wait."""
        if self.exited is not None:
            return False
        return self.extra_threads > 0 or (self.ended is not None and len(self.clients) > 1)

    @property
    def resting(self) -> str:
        """The phase that it has ended, and whose end on all ranks it waits for; `""` where it does not."""
        if self.ended is None or self.exited is not None or self.ended.outcome != "passed":
            return ""
        return self.ended.phase if self.ended.phase in ("setup", "call") else ""

    @property
    def runs(self) -> bool:
        """Whether one of its threads is not blocked in the store, as far as is known."""
        if self.ended is not None or self.exited is not None:
            return False
        if not self.clients or self.unseen:
            return True
        if len(self.waits) == len(self.clients):
            return False
        # Where one thread has all of them it stands in the last one.
        last = min(self.clients)
        return last >= 0 or sum(client >= 0 for client in self.clients) > 1 or last not in self.waits

    @property
    def waiting_threads(self) -> int:
        """How many of its threads are blocked in the store, at least."""
        return sum(client >= 0 for client in self.waits) or min(len(self.waits), 1)


def bits_of(bits: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


def grow(able: int, waits: Sequence[Wait], barriers: Mapping[str, Barrier]) -> int:
    """The least fixpoint: bits of all ranks that can go on, if those with the bits `able` can."""
    blocked = [wait for wait in waits if not able >> wait.rank & 1]
    while True:
        ending = [wait for wait in blocked if not wait.stuck(able, barriers)]
        if not ending:
            return able
        for wait in ending:
            able |= 1 << wait.rank
        blocked = [wait for wait in blocked if not able >> wait.rank & 1]
