"""What knowing of hangs costs: `python tests/benchmarks/bench_waitgraph.py [rounds]`.

* The wait graph, per event, on barriers and gathers of 8, 64 and 256 ranks.
* Making and taking these events, beside the barriers themselves: 50 barriers of 64 forked processes over a server.
* From the event that closes a wait to the verdict, and the report of 8 ranks from their stacks.

Printed are medians of the rounds, and of both sides of a ratio, which alternate.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "hang"))

from histories import events_of

from pytest_elastic.events import Event
from pytest_elastic.hang import Frame, Stack, WaitGraph, diagnose, report_text
from pytest_elastic.store import RemoteStore, StoreServer, barrier

BARRIERS, RANKS = 50, 64


def barrier_history(ranks: int, barriers: int) -> list[Event]:
    """All ranks meet at one barrier after the other, each time another one first."""
    order = [(i, (i + rank) % ranks) for i in range(barriers) for rank in range(ranks)]
    return events_of(ranks, [(rank, "barrier", f"world/barrier/b/{i}") for i, rank in order])


def gather_history(ranks: int, gathers: int) -> list[Event]:
    return events_of(ranks, [(rank, "gather", f"g{i}/") for i in range(gathers) for rank in range(ranks)])


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def take_all(ranks: int, events: list[Event]) -> None:
    take = WaitGraph(ranks).take
    for event in events:
        take(event)


def tell_all(ranks: int, parts: list[tuple[type[Event], tuple[object, ...]]]) -> None:
    """As a server does: make each event, and give it to the graph."""
    take = WaitGraph(ranks).take
    for kind, values in parts:
        take(kind(*values))  # type: ignore[arg-type]


def graph(rounds: int) -> None:
    histories = {
        "barriers of 8": (8, barrier_history(8, BARRIERS)),
        "barriers of 64": (64, barrier_history(64, BARRIERS)),
        "barriers of 256": (256, barrier_history(256, 10)),
        "gathers of 64": (64, gather_history(64, 5)),
    }
    for name, (ranks, events) in histories.items():
        spans = [seconds_of(partial(take_all, ranks, events)) for _ in range(rounds)]
        print(f"{name:18} {statistics.median(spans) / len(events) * 1e6:6.2f} us/event, {len(events)} events")


def meet() -> float:
    """Seconds for `BARRIERS` barriers of `RANKS` processes over one server."""
    with StoreServer() as server:
        lines = [socket.socketpair() for _ in range(RANKS)]
        for rank in range(RANKS):
            end = server.pair(rank)
            if not os.fork():
                store = RemoteStore(end)
                barrier(store, RANKS, "start", rank=rank)
                lines[rank][1].send(b".")
                lines[rank][1].recv(1)
                for number in range(BARRIERS):
                    barrier(store, RANKS, f"b{number}", rank=rank)
                lines[rank][1].send(b".")
                os._exit(0)
            end.close()
        for ours, _ in lines:
            ours.recv(1)
        began = time.perf_counter()
        for act in (lambda line: line.send(b"."), lambda line: line.recv(1)):
            for ours, _ in lines:
                act(ours)
        span = time.perf_counter() - began
        for line in lines:
            os.wait()
            line[0].close()
            line[1].close()
        return span


def beside_barriers(rounds: int) -> None:
    parts = [(type(event), astuple(event)) for event in barrier_history(RANKS, BARRIERS)]
    pairs = [(meet(), seconds_of(lambda: tell_all(RANKS, parts))) for _ in range(rounds)]
    real, told = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{BARRIERS} barriers of {RANKS}: {real * 1e3:.0f} ms; their events, made and taken: {told * 1e3:.1f} ms"
    )
    print(f"{'':18} {told / real:.1%}")


def verdict(rounds: int) -> None:
    for ranks in (4, 8, 64):
        events = events_of(ranks, [*[(r, "barrier", "b") for r in range(1, ranks)], (0, "passes")])
        closing, saying = [], []
        for _ in range(rounds * 10):
            one = WaitGraph(ranks)
            for event in events[:-1]:
                one.take(event)
            closing.append(seconds_of(partial(one.take, events[-1])))
            saying.append(seconds_of(partial(diagnose, one)))
        print(f"verdict, {ranks} ranks: {statistics.median(closing) * 1e6:.0f} us to know,", end=" ")
        print(f"{statistics.median(saying) * 1e6:.0f} us to say")


def report(rounds: int) -> None:
    """Stacks of 40 frames of pytest and 32 of a user, in three classes."""
    events = events_of(8, [*[(r, "barrier", "b") for r in range(1, 8)], (0, "passes")])
    one = WaitGraph(8)
    for event in events:
        one.take(event)
    found = diagnose(one)
    assert found is not None
    pytest_ = [Frame(f"/site-packages/_pytest/x{i}.py", i, "call") for i in range(40)]
    user = [Frame(f"/suite/m{i}.py", i, f"f{i}") for i in range(31)]
    stacks = {r: [Stack((*pytest_, *user, Frame("/suite/t.py", r % 3, "leaf")), True)] for r in range(8)}
    spans = [seconds_of(lambda: report_text(found, stacks)) for _ in range(rounds * 10)]
    print(f"report of 8 ranks: {statistics.median(spans) * 1e3:.2f} ms")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for part in (graph, verdict, report, beside_barriers):
        part(rounds)
