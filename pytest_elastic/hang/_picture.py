"""Who stands where, taken from a wait graph before it goes on."""

from __future__ import annotations

from pytest_elastic.hang._diagnosis import BarrierSeen, Picture, WaitSeen
from pytest_elastic.hang._nodes import LAST_MEMBER, Barrier, Wait, ranks_of
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.hang._wording import barrier_name, state_text


def draw(graph: WaitGraph, first: tuple[str, ...], note: str = "") -> Picture:
    """All waits and the barriers where somebody waits, those with the prefixes `first` on top."""
    barriers = sorted(graph.barriers(), key=lambda one: _rank_in(first, one.prefix))
    return Picture(
        world_size=len(graph.ranks),
        waits=tuple(_wait(graph, wait) for wait in graph.waits()),
        barriers=tuple(_barrier(graph, barrier) for barrier in barriers),
        progress=tuple((rank.barriers, rank.calls) for rank in graph.ranks),
        states=tuple(state_text(rank) for rank in graph.ranks),
        note=note,
    )


def _rank_in(first: tuple[str, ...], prefix: str) -> int:
    return first.index(prefix) if prefix in first else len(first)


def _wait(graph: WaitGraph, wait: Wait) -> WaitSeen:
    at = [barrier for key in wait.missing if (barrier := graph.barrier(key)) is not None]
    return WaitSeen(
        wait.rank,
        wait.client,
        wait.event.name,
        wait.event.keys,
        wait.missing,
        wait.event.at,
        wait.event.timeout,
        barrier_name(at[0].prefix) if at else "",
        wait in graph.doomed,
    )


def _barrier(graph: WaitGraph, barrier: Barrier) -> BarrierSeen:
    waiting = {wait.rank for wait in graph.waits() if barrier.prefix + LAST_MEMBER in wait.missing}
    arrived = tuple(sorted(set(ranks_of(barrier.joined)) | waiting))
    absent = tuple((rank.number, state_text(rank)) for rank in graph.ranks if rank.number not in arrived)
    return BarrierSeen(barrier.prefix, barrier_name(barrier.prefix), barrier.world_size, arrived, absent)
