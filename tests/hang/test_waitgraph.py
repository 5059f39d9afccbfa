"""The graph against two oracles: a fixpoint computed from scratch, and a search through all that may happen.

Both read a history anew at each event and know nothing of the graph's bits and indexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
from histories import Group, Step, events_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    Event,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.hang import WaitGraph

LAST = "/last_member"


@dataclass
class Tally:
    """A barrier's calls since its counter was last new."""

    sizes: set[int] = field(default_factory=set)
    count: int = 0
    releaser: int | None = None
    joined: list[int] = field(default_factory=list)
    left: set[int] = field(default_factory=set)


class Snapshot:
    """What a history amounts to, read from its start."""

    def __init__(self, world_size: int, events: list[Event]) -> None:
        self.ranks = set(range(world_size))
        self.gone: set[int] = set()
        self.exited: set[int] = set()
        self.threads: dict[int, int] = {}
        self.unseen: set[int] = set()
        self.waits: dict[int, WaitBegan] = {}
        self.missing: dict[int, set[str]] = {}
        self.tallies: dict[str, Tally] = {}
        for event in events:
            getattr(self, f"on_{type(event).__name__}", lambda event: None)(event)

    def on_StoreCalled(self, event: StoreCalled) -> None:
        if event.client not in self.threads:
            self.threads[event.client] = event.rank
            self.unseen.discard(event.rank)
        if event.name in ("set", "add", "arrive", "queue_push"):
            for client, missing in list(self.missing.items()):
                kinds = ("wait",) if event.name == "queue_push" else ("wait", "get", "multi_get")
                if event.keys[0] in missing and self.waits[client].name in kinds:
                    missing.discard(event.keys[0])
                    if not missing:
                        del self.missing[client], self.waits[client]
            self.tallies.pop(event.keys[0], None)
        if event.name == "delete_key" and event.changed:
            self.tallies.pop(event.keys[0].replace("/num_members", LAST), None)

    def on_BarrierJoined(self, event: BarrierJoined) -> None:
        if event.count > event.world_size:
            return
        tally = self.tallies.setdefault(event.prefix + LAST, Tally())
        tally.sizes.add(event.world_size)
        tally.count = event.count
        if event.count == event.world_size:
            tally.releaser = event.rank
        tally.joined.append(event.rank)
        tally.left.discard(event.rank)

    def on_WaitBegan(self, event: WaitBegan) -> None:
        self.waits[event.client] = event
        self.missing[event.client] = set(event.missing)

    def on_WaitEnded(self, event: WaitEnded) -> None:
        if event.how == "timed out":
            for key in self.missing[event.client]:
                if key in self.tallies and event.rank in self.tallies[key].joined:
                    self.tallies[key].left.add(event.rank)
        self.waits.pop(event.client, None)
        self.missing.pop(event.client, None)
        if event.how == "gone":
            del self.threads[event.client]

    def on_ClientLeft(self, event: ClientLeft) -> None:
        self.threads.pop(event.client, None)

    def on_PhaseEnded(self, event: PhaseEnded) -> None:
        self.gone.add(event.rank)

    def on_PhaseBegan(self, event: PhaseBegan) -> None:
        self.gone -= {event.rank} - self.exited
        mine = {client for client, owner in self.threads.items() if owner == event.rank}
        self.unseen = self.unseen - {event.rank} | (
            {event.rank} if mine and mine <= set(self.waits) else set()
        )

    def on_RankExited(self, event: RankExited) -> None:
        self.gone.add(event.rank)
        self.exited.add(event.rank)

    def able(self) -> set[int]:
        """Ranks that can do something now."""
        able = set()
        for rank in self.ranks - self.gone:
            mine = {client for client, owner in self.threads.items() if owner == rank}
            patient = [c for c in mine & set(self.waits) if self.waits[c].may_timeout]
            if rank in self.unseen or patient or not mine or mine - set(self.waits):
                able.add(rank)
        return able

    def live(self) -> list[int]:
        """Clients that wait, in ranks that are in a phase."""
        return [client for client in self.waits if self.threads[client] not in self.gone]

    def writers(self, client: int, key: str) -> set[int]:
        wait = self.waits[client]
        return {dict(zip(wait.keys, wait.writers, strict=True))[key]} if wait.writers else self.ranks

    def kind(self, key: str) -> str:
        """How a key comes: `plain`, `members`, `release`."""
        tally = self.tallies.get(key)
        if tally is None:
            return "plain"
        if tally.releaser is not None:
            return "release"
        return "members" if len(tally.sizes) == 1 and max(tally.sizes) <= len(self.ranks) else "plain"


def fixpoint(now: Snapshot) -> set[int]:
    """The clients that are doomed, by the definition."""
    able = now.able()

    def comes(client: int, key: str) -> bool:
        if now.waits[client].writers or now.kind(key) == "plain":
            return bool(now.writers(client, key) & able)
        tally = now.tallies[key]
        if now.kind(key) == "release":
            return tally.releaser in able
        absent = able - (set(tally.joined) - tally.left)
        return len(absent) >= max(tally.sizes) - tally.count

    grown = True
    while grown:
        grown = False
        for client in now.live():
            rank = now.threads[client]
            if rank not in able and all(comes(client, key) for key in now.missing[client]):
                able.add(rank)
                grown = True
    return {
        client
        for client in now.live()
        if not now.waits[client].may_timeout and not all(comes(client, key) for key in now.missing[client])
    }


def search(now: Snapshot) -> set[int]:
    """The clients that wait in every continuation, by trying them all: ranks that run may do anything."""
    live = now.live()
    start = (
        frozenset((client, key) for client in live for key in now.missing[client]),
        frozenset(now.able()),
        frozenset(),
    )
    seen, ahead, freed = {start}, [start], set()
    while ahead:
        lacks, able, joins = ahead.pop()
        waiting = {client for client, _ in lacks}
        freed |= set(live) - waiting
        for after in _moves(now, lacks, able | {now.threads[c] for c in live if c not in waiting}, joins):
            if after not in seen:
                seen.add(after)
                ahead.append(after)
    return {client for client in live if client not in freed and not now.waits[client].may_timeout}


def _moves(now: Snapshot, lacks: Any, able: Any, joins: Any) -> Any:
    for rank in able:
        for key in {key for _, key in lacks}:
            kind = now.kind(key)
            tally = now.tallies.get(key)
            if kind == "members" and tally is not None:
                came = {one for name, one in joins if name == key}
                if rank not in came | (set(tally.joined) - tally.left):
                    more = joins | {(key, rank)}
                    full = tally.count + len(came) + 1 >= max(tally.sizes)
                    yield (_without(now, lacks, key, None) if full else lacks, able, more)
            elif kind == "release" and tally is not None and rank != tally.releaser:
                continue
            yield (_without(now, lacks, key, rank, kind == "plain"), able, joins)


def _without(now: Snapshot, lacks: Any, key: str, rank: int | None, plain: bool = True) -> Any:
    """What waits lack once this rank wrote the key; where it is declared, only its writer counts."""

    def written(client: int) -> bool:
        if now.waits[client].writers:
            return rank in now.writers(client, key)
        return rank is None or plain or now.kind(key) == "release"

    return frozenset((client, name) for client, name in lacks if name != key or not written(client))


KEYS = ["a", "b", f"p{LAST}"]
SIZES = st.integers(1, 3)
MOVES = st.tuples(
    st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 0, 1])),
    st.sampled_from(
        [
            "set",
            "set",
            "wait",
            "wait",
            "wait2",
            "try",
            "receive",
            "barrier",
            "barrier",
            "barrier2",
            "join",
            "delete_key",
            "times_out",
            "leaves",
            "passes",
            "begins",
            "exits",
            "queue_pop",
            "queue_push",
        ]
    ),
    st.integers(0, 2),
)


def steps_of(group: Group, move: Any) -> Step | None:
    """A step that is possible now; `None` if the move is none."""
    (rank, thread), what, number = move
    who, key = (rank % group.world_size, thread), KEYS[number]
    client, blocked = who[0] * 10 + thread, group.blocked
    exited = any(isinstance(e, RankExited) and e.rank == who[0] for e in group.events)
    if exited or (client in blocked) != (what == "times_out" or (client in blocked and what in LIFE)):
        return None
    arguments: dict[str, tuple[Any, ...]] = {
        "wait2": (*KEYS[:2],), "receive": (KEYS[number % 2], number % group.world_size), "times_out": (), "leaves": (),
        "passes": (), "begins": (), "exits": (), "barrier": ("p",), "join": ("p",),
        "barrier2": ("p", number + 1),
    }  # fmt: skip
    if what == "leaves" and not any(isinstance(e, StoreCalled) and e.client == client for e in group.events):
        return None
    name = {"wait2": "wait", "barrier2": "barrier"}.get(what, what)
    if what in ("queue_pop", "queue_push"):
        key = "q"
    if what == "delete_key" and number == 2:
        key = "p/num_members"
    return (who, name, *arguments.get(what, (key,)))


LIFE = ("passes", "begins", "exits", "leaves")


@settings(max_examples=300, deadline=None)
@given(SIZES, st.lists(MOVES, max_size=14))
def test_graph_equals_fixpoint_and_search(world_size: int, moves: list[Any]) -> None:
    """At each event of a random history all three name the same doomed waits."""
    group, graph, done = Group(world_size), WaitGraph(world_size), 0
    for move in moves:
        step = steps_of(group, move)
        if step is None:
            continue
        group.step(*step)
        while done < len(group.events):
            before = {wait.client for wait in graph.doomed}
            new = graph.take(group.events[done])
            done += 1
            now = Snapshot(world_size, group.events[:done])
            doomed = {wait.client for wait in graph.doomed}
            assert doomed == fixpoint(now)
            assert doomed == search(now)
            assert new == bool(doomed - before)


def test_a_verdict_is_taken_back() -> None:
    """Where somebody else than the ranks ends a doomed wait, it is doomed no more from that event on."""
    graph = WaitGraph(2)
    steps: list[Step] = [(0, "wait", "k"), (1, "passes"), (None, "set", "k")]
    history = events_of(2, steps)
    assert [graph.take(event) for event in history] == [False, False, True, False, False]
    assert graph.doomed == ()


def test_a_deleted_counter_opens_a_barrier() -> None:
    """Whoever waits without having called it is not doomed once the counter is gone."""
    graph, said = WaitGraph(2), []
    group = Group(2)
    for step in [(1, "wait", "p/last_member"), (0, "join", "p"), (0, "delete_key", "p/num_members")]:
        for event in group.step(*step):
            graph.take(event)
        said.append([wait.rank for wait in graph.doomed])
    assert said == [[], [1], []]


def test_deleted_keys_are_forgotten_in_the_end() -> None:
    """A run that uses each key once does not grow for ever."""
    graph = WaitGraph(1)
    for number in range(10_050):
        graph.take(StoreCalled(0.0, 0, 1, "delete_key", (f"k{number}",)))
    assert len(graph.deleted) == 10_000
    assert "k0" not in graph.deleted
    assert "k10049" in graph.deleted


def test_quiescent() -> None:
    """Everybody in a phase waits, whether or not a timeout is counted on; and there is somebody."""
    graph, said = WaitGraph(3), []
    group = Group(3)
    for step in [
        (0, "wait", "a"),
        (1, "try", "b"),
        (2, "passes"),
        (0, "times_out"),
        (0, "fails"),
        (1, "fails"),
    ]:
        for event in group.step(*step):
            graph.take(event)
        said.append(graph.quiescent)
    assert said == [False, False, True, False, True, False]


HEALTHY: dict[str, list[Step]] = {
    "barriers": [((rank + i) % 16, "barrier", f"p{i}") for i in range(4) for rank in range(16)],
    "gathers": [((rank + i) % 16, "gather", f"p{i}/") for i in range(4) for rank in range(16)],
    "a key, and a barrier": [
        (0, "wait", "k"), *[(rank, "barrier", "p") for rank in range(1, 15)], (15, "set", "k"), (15, "barrier", "p"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", HEALTHY)
def test_healthy_groups_cost_no_fixpoint(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody is late or gone, an event costs a few bits, however many ranks there are."""
    computed: list[int] = []
    monkeypatch.setattr("pytest_elastic.hang._waitgraph.grow", lambda *arguments: computed.append(1))
    graph = WaitGraph(16)
    for event in events_of(16, HEALTHY[what]):
        graph.take(event)
    assert computed == []


OPERATIONS = [("set", "a"), ("set", "b"), ("wait", "a"), ("wait", "b"), ("barrier", "p")]
PROGRAMS = [list(program) for length in range(3) for program in product(OPERATIONS, repeat=length)]
SHORT = [program for program in PROGRAMS if len(program) < 2]
WORLDS = [*product(PROGRAMS, PROGRAMS), *product(SHORT, SHORT, SHORT)]


def runs(programs: Any) -> Iterator[list[Step]]:
    """All ways in which these programs can go, each rank's end included, as far as they get."""

    def go_on(done: list[Step], at: tuple[int, ...]) -> Iterator[list[Step]]:
        group = Group(len(programs))
        for step in done:
            group.step(*step)
        able = [r for r, i in enumerate(at) if r * 10 not in group.blocked and i <= len(programs[r])]
        if not able:
            yield done
        for rank in able:
            i = at[rank]
            step = (rank, *programs[rank][i]) if i < len(programs[rank]) else (rank, "passes")
            yield from go_on([*done, step], (*at[:rank], i + 1, *at[rank + 1 :]))

    yield from go_on([], (0,) * len(programs))


@pytest.mark.parametrize("number", range(0, len(WORLDS), 13))
def test_every_run_of_small_programs(number: int) -> None:
    """A wait that was called doomed never ends; when nothing goes on, every wait was called doomed."""
    programs = WORLDS[number]
    for run in runs(programs):
        graph, doomed = WaitGraph(len(programs)), set()
        for event in events_of(len(programs), run):
            graph.take(event)
            doomed |= {wait.client for wait in graph.doomed}
            assert not (isinstance(event, WaitEnded) and event.client in doomed)
        assert doomed == {wait.client for wait in graph.waits()}


@pytest.mark.parametrize("last", range(3))
def test_who_comes_last_has_come_no_further(last: int) -> None:
    """It releases the barrier by a request more."""
    group, graph = Group(3), WaitGraph(3)
    for rank in sorted(range(3), key=lambda rank: (rank == last, rank)):
        group.step(rank, "barrier", "epoch")
    for event in group.events:
        graph.take(event)
    assert {(rank.barriers, rank.calls) for rank in graph.ranks} == {(1, 2)}
