"""Group calls: collectives and messages of process groups that are not over, and mismatches among them.

*Rules.*
1. A call is over once all its members have joined it.  The number of calls of each rank is kept by group.
2. Calls mismatch if their signatures differ, or the sizes that one sends and another one expects.  Both have
   failed at once then.  A mismatch is settled once its last caller goes on to another call, unless a rank
   fails of it all the same.
3. The first call of a group that its members made at different lines is its *divergence*: no mistake by
   itself, but where the ranks' ways part if there is one.
4. A wait whose time was up by the machine's clock is a *lapse*: the absent may still come, too late.  It is
   forgotten once its rank has dealt with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from pytest_elastic.events import CollectiveJoined, PhaseEnded
from pytest_elastic.hang._nodes import Barrier, Rank, Wait
from pytest_elastic.wording import name_ranks, plural

_KEY = re.compile(r"(.*?#\d+)(?:/\d+)?/\d+")
_PAIR = re.compile(r"(?P<group>.*):(?P<source>\*|\d+)>(?P<destination>\d+),(?P<tag>-?\d+)$")
_FIELDS = ("operation", "root", "reduction", "dtype", "size")
_MOST = 10_000
_ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(slots=True, eq=False)
class GroupCall:
    """One call of a group, such as its third `all_reduce`, or one message.

    Attributes:
        name: `f"{group}#{number}"`.
        members: the ranks that are to join; `()` where that is not known yet, as in `init_process_group`.
        calls: of each rank that has joined.
        barrier: stands for the members that are not known.
        difference: the field in which calls differ; `""` where they do not.
    """

    name: str
    group: str
    number: int
    members: tuple[int, ...]
    calls: dict[int, CollectiveJoined] = field(default_factory=dict)
    barrier: Barrier | None = None
    difference: str = ""
    last: CollectiveJoined | None = None

    @property
    def first(self) -> CollectiveJoined:
        """The first call."""
        return next(iter(self.calls.values()))

    @property
    def is_message(self) -> bool:
        """Whether it is a message between two ranks."""
        return self.first.operation in ("send", "recv")

    @property
    def is_full(self) -> bool:
        """Whether all members have joined."""
        size = len(self.members) if self.barrier is None else self.barrier.world_size
        return 0 < size <= len(self.calls)

    @property
    def title(self) -> str:
        """Its name for people: `all_reduce #2 of group world`."""
        return title_of(self.group, self.number, "call" if self.difference else self.first.operation)

    @property
    def spec(self) -> str:
        """Tensors, reduction and root of its first call: `float32[4] SUM`."""
        inner = self.first.text.partition("(")[2].removesuffix(")")
        reduction = self.first.reduction
        if self.is_message:
            return inner.rpartition(", ")[0]
        return inner.replace(f", {reduction}", f" {reduction}") if reduction else inner

    def join(self, event: CollectiveJoined) -> None:
        """Take a member's call up."""
        assert event.rank is not None
        # Where sizes need not fit in pairs, those that came are alike: one stands for all.
        for other in self.calls.values() if event.sends or event.expects else islice(self.calls.values(), 1):
            self.difference = self.difference or difference(other, event)
        self.calls[event.rank] = self.last = event
        if self.barrier is not None:
            self.barrier.joined |= 1 << event.rank
            self.barrier.count += 1

    def open_barrier(self, size: int, world_size: int) -> Barrier:
        """The barrier that stands for members which are not known."""
        if self.barrier is None:
            joined = sum(1 << rank for rank in self.calls)
            self.barrier = Barrier(self.name, size, size <= world_size, len(self.calls), joined)
        return self.barrier

    def absent(self, world_size: int) -> list[int]:
        """The members that have not joined, as far as it is known who they are."""
        if not self.members and self.barrier is not None and self.barrier.world_size < world_size:
            return []
        return [rank for rank in self.members or range(world_size) if rank >= 0 and rank not in self.calls]

    def sorts(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(call, place, ranks) of all that are alike, the rarest first."""
        found: dict[tuple[str, str], list[int]] = {}
        for rank, call in sorted(self.calls.items()):
            found.setdefault((call.text, short_place(call.place)), []).append(rank)
        odd = self.odd()
        order = sorted(found.items(), key=lambda one: (one[1][0] not in odd, len(one[1]), one[1]))
        return [(text, place, tuple(ranks)) for (text, place), ranks in order]

    def odd(self) -> tuple[int, ...]:
        """The ranks of the rarer call, of a mismatch; where none is rarer, all."""
        counts: Counter[int] = Counter()
        for rank, one in self.calls.items():
            counts[rank] = sum(bool(difference(one, other)) for other in self.calls.values())
        most = max(counts.values(), default=0)
        return tuple(sorted(rank for rank, count in counts.items() if count == most))

    def places(self) -> str:
        """Where its members called it: `ranks 0, 2 at train.py:12; rank 1 at train.py:20`."""
        found: dict[str, list[int]] = {}
        for rank, call in sorted(self.calls.items()):
            found.setdefault(short_place(call.place), []).append(rank)
        return "; ".join(f"{name_ranks(ranks)} at {place}" for place, ranks in found.items())

    def mismatch_text(self) -> str:
        """The mismatch in a sentence, the rarer call first."""
        odd, said = self.odd(), []
        for ranks in (odd, [rank for rank in self.calls if rank not in odd]):
            alike: dict[str, list[int]] = {}
            for rank in ranks:
                call = self.calls[rank]
                alike.setdefault(
                    call.text + (f" at {short_place(call.place)}" if call.place else ""), []
                ).append(rank)
            said += [f"{name_ranks(who)} {plural('calls', who)} {text}" for text, who in alike.items()]
        return f"{self.title} has another {self.difference}: {', '.join(said)}{self.unfit_text()}"

    def unfit_text(self) -> str:
        """The first pair whose sizes do not fit, where all is alike otherwise, as the end of a sentence."""
        if len({call.text for call in self.calls.values()}) > 1:
            return ""
        for rank, sender in sorted(self.calls.items()):
            for other, receiver in sorted(self.calls.items()):
                sent, expected = sizes_of(sender, receiver)
                if sent and expected and sent != expected:
                    return (
                        f"; rank {rank} sends {sent[0]} elements to rank {other}, which expects {expected[0]}"
                    )
        return ""


def difference(one: CollectiveJoined, other: CollectiveJoined) -> str:
    """The first field in which two calls differ; `""` if they fit."""
    if one.signature != other.signature:
        fields = zip(_FIELDS, one.signature.split("\t"), other.signature.split("\t"), strict=False)
        return next((name for name, mine, yours in fields if mine != yours), "size")
    for sender, receiver in ((one, other), (other, one)):
        sizes = sizes_of(sender, receiver)
        if all(sizes) and sizes[0] != sizes[1]:
            return "size"
    return ""


def sizes_of(one: CollectiveJoined, other: CollectiveJoined) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many elements the one sends the other, and how many this expects; `()` where it is not said."""
    return one.sends[other.index : other.index + 1], other.expects[one.index : one.index + 1]


class Lapse(NamedTuple):
    """A wait that timed out after so many seconds; `absent` are the ranks that it waited for."""

    call: GroupCall
    absent: tuple[int, ...]
    seconds: float


class GroupCalls:
    """The calls of all groups.

    Attributes:
        open: those that lack a member, by name.
        mismatches: those that failed, in their order.
        divergences: the first call that was made at different lines, by group.
        lapses: the last wait of each rank that timed out, in the order of these.
    """

    def __init__(self) -> None:
        self.open: dict[str, GroupCall] = {}
        self.mismatches: list[GroupCall] = []
        self.divergences: dict[str, GroupCall] = {}
        self.lapses: dict[int, Lapse] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._since: dict[int, CollectiveJoined] = {}  # The last call of each connection.
        self._failed, self._settled = False, set[str]()

    def join(self, event: CollectiveJoined) -> GroupCall:
        """Take a call up; the group call that it belongs to."""
        assert event.rank is not None
        name = f"{event.group}#{event.number}"
        call = self.open.get(name)
        if call is None or event.rank in call.calls:
            if len(self.open) > _MOST:
                del self.open[next(iter(self.open))]
            known = -1 not in event.members or event.operation != "init_process_group"
            members = event.members if known else ()
            call = self.open[name] = GroupCall(name, event.group, event.number, members)
        failed = bool(call.difference)
        call.join(event)
        self._since[event.client] = event
        self._counts[event.group, event.rank] = event.number + 1
        if call.difference and not failed:
            self.mismatches.append(call)
        if call.is_full:
            self._close(call)
        return call

    def _close(self, call: GroupCall) -> None:
        del self.open[call.name]
        places = {one.place for one in call.calls.values()}
        if len(places) > 1 and not call.is_message and not call.difference:
            self.divergences.setdefault(call.group, call)

    def end(self, event: PhaseEnded) -> None:
        """A rank has ended its phase: a mismatch of which it does not fail is settled."""
        if "CollectiveMismatch" in event.text:
            self._failed = True
        else:
            self._settled.update(
                one.name for one in self.mismatches if one.last is not None and one.last.rank == event.rank
            )

    def lapse(self, wait: Wait, world_size: int) -> None:
        """A wait has lasted as long as it may; one that only looked is none."""
        call, seconds = wait.call, wait.event.timeout
        if call is not None and seconds:
            absent = [wait.writers[key] for key in wait.lacks] if wait.writers else call.absent(world_size)
            self.lapses.pop(wait.rank, None)
            self.lapses[wait.rank] = Lapse(call, tuple(absent), seconds)

    def deal(self, rank: Rank) -> None:
        """A rank goes on after its lapse, if it has not ended with it."""
        if rank.ended is None:
            self.lapses.pop(rank.number, None)

    def of(self, key: str) -> GroupCall | None:
        """The open call that a wait's key belongs to."""
        match = _KEY.fullmatch(key)
        return None if match is None else self.open.get(match[1])

    def count(self, group: str, rank: int) -> int:
        """How many calls of a group, or messages of a pair, a rank has made."""
        return self._counts[group, rank]

    def is_last(self, call: GroupCall, rank: int) -> bool:
        """Whether a rank has joined a call, and none of the group since."""
        return rank in call.calls and self.count(call.group, rank) == call.number + 1

    @property
    def mismatch(self) -> GroupCall | None:
        """The first mismatch that was not settled."""
        for call in self.mismatches:
            went_on = call.last is not None and self._since.get(call.last.client) is not call.last
            if self._failed or not (went_on or call.name in self._settled):
                return call
        return None


# Words.


def title_of(group: str, number: int, operation: str) -> str:
    """The name of a group call: `all_reduce #2 of group world`, `message #0 from 1 to 2`."""
    pair = _PAIR.match(group)
    if pair is not None:
        source = "anybody" if pair["source"] == "*" else pair["source"]
        tag = f", tag {pair['tag']}" if pair["tag"] != "0" else ""
        where = "" if pair["group"] == "world" else f" in group {pair['group']}"
        return f"message #{number} from {source} to {pair['destination']}{tag}{where}"
    if operation == "init_process_group":
        return operation
    own = group.partition(" new_group")[0]
    return f"{operation} #{number} of group {own}"


def group_text(group: str) -> str:
    """A group's name after a number of its calls; `""` for the whole world."""
    return "" if group == "world" else f" of group {group}"


def count_text(count: int, call: GroupCall) -> str:
    """A number of calls of the same group: `2 collectives`, `1 message`."""
    noun = "message" if call.is_message else "collective"
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ordinal(number: int) -> str:
    """The place of a call with this number, which counts from 0: `third`, `21st`."""
    if number < len(_ORDINALS):
        return _ORDINALS[number]
    place = number + 1
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def short_place(place: str) -> str:
    """A place without its directories: `train.py:12`."""
    return place.rpartition("/")[2]


def waiting_places(call: GroupCall, ranks: Sequence[int]) -> str:
    """Where these ranks called, in brackets: ` (train.py:12)`; `""` where it is not known."""
    places = dict.fromkeys(short_place(call.calls[rank].place) for rank in ranks if rank in call.calls)
    found = ", ".join(place for place in places if place)
    return f" ({found})" if found else ""


def call_text_of(rank: Rank, call: GroupCall) -> str:
    """A rank's own call, with its place: `send(float32[4], to 1) at train.py:12`."""
    mine = call.calls.get(rank.number)
    if mine is None:
        return call.title
    return mine.text + (f" at {short_place(mine.place)}" if mine.place else "")
