"""A snapshot of a wait graph: who waits for what, who came to which barrier, what each rank does.

A verdict carries one, since the graph goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pytest_elastic.hang._group_calls import GroupCall, count_text
from pytest_elastic.hang._naming import collective_of, joined_name, state_text
from pytest_elastic.hang._nodes import Barrier, Rank, Wait, bits_of
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.store import LAST_MEMBER


class WaitSeen(NamedTuple):
    """A wait as it stood at the verdict.

    Attributes:
        timeout: seconds until it fails by itself, counted from its begin at `since`.
        barrier: the name, for people, of the barrier or collective that it is at; empty if it is at none.
    """

    rank: int
    client: int
    name: str
    keys: tuple[str, ...]
    missing: tuple[str, ...]
    since: float
    timeout: float
    barrier: str
    doomed: bool


class BarrierSeen(NamedTuple):
    """A barrier, or a collective of the world, as it stood at the verdict.

    Attributes:
        prefix: of its keys; `name` is for people.
        world_size: number of ranks expected; for a broadcast only its source.
        arrived: the ranks that called it, ascending.
        absent: the others, each with what it does instead.
    """

    prefix: str
    name: str
    world_size: int
    arrived: tuple[int, ...]
    absent: tuple[tuple[int, str], ...]


class CallSeen(NamedTuple):
    """A collective or message of a process group, as it stood at the verdict.

    Attributes:
        name: `f"{group}#{number}"`; `title` is for people.
        operation: that of its first caller.
        spec: the tensors, the reduction and the root of that.
        calls: (call, place, ranks) of all that are alike, the rarest first.
        absent: the ranks that have not joined, each with what it does instead.
        difference: what is different in its calls; `""` where they fit.
    """

    name: str
    title: str
    group: str
    number: int
    operation: str
    spec: str
    calls: tuple[tuple[str, str, tuple[int, ...]], ...]
    absent: tuple[tuple[int, str], ...]
    difference: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all ranks at the verdict.

    Attributes:
        progress: by rank: how many barriers it called, and how many requests it made.
        states: by rank: what it does, in words.
        note: something else that is wrong and may have led here; empty if there is nothing.
    """

    world_size: int
    waits: tuple[WaitSeen, ...] = ()
    barriers: tuple[BarrierSeen, ...] = ()
    progress: tuple[tuple[int, int], ...] = ()
    states: tuple[str, ...] = ()
    note: str = ""
    collectives: tuple[CallSeen, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As values that `json.dumps` takes."""
        return {
            **asdict(self),
            "waits": [one._asdict() for one in self.waits],
            "barriers": [one._asdict() for one in self.barriers],
            "collectives": [one._asdict() for one in self.collectives],
        }


def take_snapshot(
    graph: WaitGraph, first: tuple[str, ...] = (), note: str = "", over: Sequence[GroupCall] = ()
) -> Snapshot:
    """All waits and the barriers where somebody waits, those with the prefixes `first` on top.

    Args:
        over: calls that are shown though nobody waits in them any more.
    """
    waits, states = graph.waits(), tuple(map(state_text, graph.ranks))
    doomed = frozenset(graph.doomed)
    calls = dict.fromkeys((*over, *(wait.call for wait in waits if wait.call is not None)))
    known = (*graph.calls.mismatches, *graph.calls.open.values())
    calls |= dict.fromkeys(call for call in known if call.name in first)
    names = {call.name for call in calls}
    barriers = [_barrier_seen(one, waits, states) for one in graph.barriers() if one.prefix not in names]
    barriers += _collectives_seen(waits, states)
    barriers.sort(key=lambda one: first.index(one.prefix) if one.prefix in first else len(first))
    return Snapshot(
        world_size=len(graph.ranks),
        waits=tuple(_wait_seen(graph, wait, wait in doomed) for wait in waits),
        barriers=tuple(barriers),
        progress=tuple((rank.barriers + rank.collectives, rank.calls) for rank in graph.ranks),
        states=states,
        note=note,
        collectives=tuple(
            _call_seen(graph, one) for one in sorted(calls, key=lambda one: one.name not in first)
        ),
    )


def _wait_seen(graph: WaitGraph, wait: Wait, doomed: bool) -> WaitSeen:
    event, barrier = wait.event, next(filter(None, map(graph.barrier, wait.lacks)), None)
    place = collective_of(next(iter(wait.writers), "")) if barrier is None else barrier.prefix
    name = joined_name(place) if place else ""
    return WaitSeen(
        wait.rank,
        wait.client,
        event.name,
        event.keys,
        wait.missing,
        event.at,
        event.timeout,
        wait.call.title if wait.call is not None else name,
        doomed,
    )


def _call_seen(graph: WaitGraph, call: GroupCall) -> CallSeen:
    absent = tuple(
        (rank, _absent_state(graph, graph.ranks[rank], call)) for rank in call.absent(len(graph.ranks))
    )
    return CallSeen(
        call.name,
        call.title,
        call.group,
        call.number,
        call.first.operation,
        call.spec,
        tuple(call.sorts()),
        absent,
        call.difference,
    )


def _absent_state(graph: WaitGraph, rank: Rank, call: GroupCall) -> str:
    """What a rank does that has not joined, and how many calls of the group it has made."""
    count = graph.calls.count(call.group, rank.number)
    return state_text(rank) + (f" after {count_text(count, call)}" if rank.gone and count else "")


def _barrier_seen(barrier: Barrier, waits: list[Wait], states: tuple[str, ...]) -> BarrierSeen:
    last = barrier.prefix + LAST_MEMBER
    arrived = {*bits_of(barrier.joined), *(wait.rank for wait in waits if last in wait.lacks)}
    absent = tuple((rank, state) for rank, state in enumerate(states) if rank not in arrived)
    name = joined_name(barrier.prefix)
    return BarrierSeen(barrier.prefix, name, barrier.world_size, tuple(sorted(arrived)), absent)


def _collectives_seen(waits: list[Wait], states: tuple[str, ...]) -> list[BarrierSeen]:
    """Those of the world at which somebody waits; of a broadcast only its source can be absent."""
    at: dict[str, list[Wait]] = {}
    for wait in waits:
        place = collective_of(next(iter(wait.writers), ""))
        if place and wait.call is None:
            at.setdefault(place, []).append(wait)
    found = []
    for place, there in at.items():
        writers = there[0].writers
        missing = {writers[key] for key in there[0].lacks}
        arrived = {wait.rank for wait in there} | set(writers.values()) - missing
        absent = tuple((rank, states[rank]) for rank in sorted(missing - arrived))
        found.append(BarrierSeen(place, joined_name(place), len(writers), tuple(sorted(arrived)), absent))
    return found
