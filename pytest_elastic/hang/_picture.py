"""Who stands where, taken from a wait graph before it goes on."""

from __future__ import annotations

from pytest_elastic.hang._diagnosis import BarrierSeen, Picture, WaitSeen
from pytest_elastic.hang._nodes import Barrier, Wait, ranks_of
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.hang._wording import collective_of, joined_name, state_text
from pytest_elastic.store import LAST_MEMBER


def draw(graph: WaitGraph, first: tuple[str, ...], note: str = "") -> Picture:
    """All waits and the barriers where somebody waits, those with the prefixes `first` on top."""
    waits = graph.waits()
    barriers = [*(_barrier(graph, barrier) for barrier in graph.barriers()), *_collectives(graph, waits)]
    return Picture(
        world_size=len(graph.ranks),
        waits=tuple(_wait(graph, wait) for wait in waits),
        barriers=tuple(sorted(barriers, key=lambda one: _rank_in(first, one.prefix))),
        progress=tuple((rank.barriers, rank.calls) for rank in graph.ranks),
        states=tuple(state_text(rank) for rank in graph.ranks),
        note=note,
    )


def _rank_in(first: tuple[str, ...], prefix: str) -> int:
    return first.index(prefix) if prefix in first else len(first)


def _wait(graph: WaitGraph, wait: Wait) -> WaitSeen:
    at = [barrier.prefix for key in wait.missing if (barrier := graph.barrier(key)) is not None]
    at += filter(None, map(collective_of, wait.writers))
    return WaitSeen(
        wait.rank,
        wait.client,
        wait.event.name,
        wait.event.keys,
        wait.missing,
        wait.event.at,
        wait.event.timeout,
        joined_name(at[0]) if at else "",
        wait in graph.doomed,
    )


def _barrier(graph: WaitGraph, barrier: Barrier) -> BarrierSeen:
    waiting = {wait.rank for wait in graph.waits() if barrier.prefix + LAST_MEMBER in wait.missing}
    arrived = tuple(sorted(set(ranks_of(barrier.joined)) | waiting))
    absent = tuple((rank.number, state_text(rank)) for rank in graph.ranks if rank.number not in arrived)
    return BarrierSeen(barrier.prefix, joined_name(barrier.prefix), barrier.world_size, arrived, absent)


def _collectives(graph: WaitGraph, waits: list[Wait]) -> list[BarrierSeen]:
    """Those of the world at which somebody waits; of a broadcast only its source can be absent."""
    at: dict[str, list[Wait]] = {}
    for wait in waits:
        place = collective_of(next(iter(wait.writers), ""))
        if place:
            at.setdefault(place, []).append(wait)
    found = []
    for place, there in at.items():
        writers = there[0].writers
        missing = {writers[key] for key in there[0].missing}
        arrived = {wait.rank for wait in there} | set(writers.values()) - missing
        absent = tuple((rank, state_text(graph.ranks[rank])) for rank in sorted(missing - arrived))
        found.append(BarrierSeen(place, joined_name(place), len(writers), tuple(sorted(arrived)), absent))
    return found
