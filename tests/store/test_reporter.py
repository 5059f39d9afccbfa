"""What a served store tells a sink: every request and wait, in the store's one order."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError
from pytest_elastic.events import BarrierJoined, ClientLeft, Event, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.store import (
    OPERATIONS,
    Asked,
    PrefixStore,
    RemoteStore,
    Request,
    StoreServer,
    StoreState,
    barrier,
    get_all,
    synchronize,
)
from pytest_elastic.store._reporter import FAILED, Reporter


class Told:
    """A server and its events, without their moments."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.server = StoreServer(sink=self.events.append)
        self.server.start()
        self.stores: list[RemoteStore] = []

    def store(self, label: object) -> RemoteStore:
        self.stores.append(self.server.store(label))
        return self.stores[-1]

    def take(self) -> list[tuple[Any, ...]]:
        """What came since the last call: type, rank, and the fields but for the connection's number."""
        rows = []
        for event in self.events:
            names = [name for name in event.__dataclass_fields__ if name not in ("at", "client")]
            rows.append((type(event), *(getattr(event, name) for name in names)))
        self.events.clear()
        return rows


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    for store in told.stores:
        store.close()
    told.server.close()


def test_a_request_is_told_after_what_it_did(told: Told) -> None:
    """With its keys, and whether it changed them."""
    store = told.store(3)
    store.set("a", "1")
    store.compare_set("a", "2", "3")
    store.compare_set("a", "1", "3")
    store.delete_key("nothing")
    store.delete_key("a")
    store.multi_set(["b", "c"], ["x", "y"])
    with pytest.raises(ValueError, match="no number"):
        store.add("b", 1)
    store.num_keys()
    assert told.take() == [
        (StoreCalled, 3, "set", ("a",), True),
        (StoreCalled, 3, "compare_set", ("a",), False),
        (StoreCalled, 3, "compare_set", ("a",), True),
        (StoreCalled, 3, "delete_key", ("nothing",), False),
        (StoreCalled, 3, "delete_key", ("a",), True),
        (StoreCalled, 3, "multi_set", ("b", "c"), True),
        (StoreCalled, 3, "add", ("b",), False),
        (StoreCalled, 3, "num_keys", (), True),
    ]


def test_values_are_not_kept_until_they_are_told() -> None:
    """Of a long request only the keys are, and whether it changed them."""
    state, events = StoreState(), []
    reporter, connection = Reporter(events.append, state, {}), SimpleNamespace(whose=(3, 1))
    reporter.patience = 1
    long, keys = b"x" * 1000, [f"key{number}" for number in range(100)]
    requests = [
        ("set", "a", long),
        ("compare_set", "a", long, b"y" + long),
        ("compare_set", "a", b"another", long),
        ("append", "a", long),
        ("multi_set", ["b", "c"], [long, b""]),
        ("check", keys),
        ("arrive", "k" * 1000 + "/num_members", 0, 2),
    ]
    for name, *arguments in requests:
        request = Request(connection, OPERATIONS[name], arguments)
        reporter.called(request, getattr(state, name)(*arguments))
    reporter.called(Request(connection, OPERATIONS["set"], ["a", long]), FAILED)
    assert not any(isinstance(one, bytes) for noted in reporter.noted for one in noted)
    assert not events
    reporter.tell()
    joined = [event for event in events if isinstance(event, BarrierJoined)]
    assert [(event.name, event.keys, event.changed) for event in events if event not in joined] == [
        ("set", ("a",), True),
        ("compare_set", ("a",), True),
        ("compare_set", ("a",), False),
        ("append", ("a",), True),
        ("multi_set", ("b", "c"), True),
        ("check", tuple(keys), True),
        ("arrive", ("k" * 1000 + "/num_members",), True),
        ("set", ("a",), False),
    ]
    assert joined == [BarrierJoined(joined[0].at, 3, 1, "k" * 1000, 2, 1)]


def test_a_wait_is_told_with_what_is_missing(told: Told, threads: Any, wait_for: Any) -> None:
    """And its end comes after the request that ended it."""
    store = told.store(0)
    store.set("a", "1")
    threads.start(lambda: store.wait(["a", "b"], 30))
    wait_for(lambda: len(told.events) == 3)
    told.store("launcher").set("b", "1")
    threads.join()
    assert told.take()[1:5] == [
        (StoreCalled, 0, "wait", ("a", "b"), True),
        (WaitBegan, 0, "wait", ("a", "b"), ("b",), 30.0, False, (), 0.0),
        (StoreCalled, None, "set", ("b",), True),
        (WaitEnded, 0, "done"),
    ]


def test_a_request_without_time_does_not_wait(told: Told) -> None:
    """It is told of like one that was answered; the store's own barrier says who came in any case."""
    store = told.store(0)
    store.set_timeout(0)
    for call in (lambda: store.get("a"), lambda: store.barrier("b", 2)):
        with pytest.raises(DistStoreError):
            call()
    store.set_timeout(0.01)
    with pytest.raises(DistStoreError):
        store.barrier("b", 3)
    keys = ("b/last_member",)
    assert told.take() == [
        (StoreCalled, 0, "get", ("a",), True),
        (StoreCalled, 0, "barrier", ("b",), True),
        (BarrierJoined, 0, "b", 2, 1),
        (StoreCalled, 0, "barrier", ("b",), True),
        (BarrierJoined, 0, "b", 3, 2),
        (WaitBegan, 0, "wait", keys, keys, 0.01, False, (), 0.0),
        (WaitEnded, 0, "timed out"),
    ]


@pytest.mark.parametrize("prefixed", [False, True])
def test_what_the_caller_knows_travels_along(told: Told, prefixed: bool) -> None:
    """A timeout that is counted on, and who writes the keys; through a `PrefixStore` too."""
    store: Any = told.store(1)
    here = "p/" if prefixed else ""
    if prefixed:
        store = PrefixStore("p", store)
    store.set_timeout(0.01)
    with pytest.raises(DistStoreError):
        store.wait(["a"], 0.01, may_timeout=True)
    with pytest.raises(DistStoreError):
        store.multi_get(Asked(["a", "b"], writers=(0, 2)))
    keys = (f"{here}a", f"{here}b")
    assert told.take() == [
        (StoreCalled, 1, "wait", keys[:1], True),
        (WaitBegan, 1, "wait", keys[:1], keys[:1], 0.01, True, (), 0.0),
        (WaitEnded, 1, "timed out"),
        (StoreCalled, 1, "multi_get", keys, True),
        (WaitBegan, 1, "multi_get", keys, keys, 0.01, False, (0, 2), 0.0),
        (WaitEnded, 1, "timed out"),
    ]


def test_a_barrier_says_who_came_and_how_many_shall(told: Told) -> None:
    """With the `add` that it makes anyhow; with and without `rank`."""
    store = told.store(1)
    with pytest.raises(DistStoreError):
        barrier(store, 2, "epoch", 0.01, rank=1, trace_timeout=0.01)
    joined = [row for row in told.take() if row[0] is BarrierJoined]
    assert joined == [(BarrierJoined, 1, "epoch", 2, 1)]
    barrier(store, 2, "epoch", 0.01)
    assert [row for row in told.take() if row[0] is BarrierJoined] == [(BarrierJoined, 1, "epoch", 2, 2)]
    store.barrier("torch's", 1)
    store.add("by hand/num_members", 1)
    assert [row for row in told.take() if row[0] is BarrierJoined] == [
        (BarrierJoined, 1, "torch's", 1, 1),
        (BarrierJoined, 1, "by hand", 0, 1),
    ]


def test_barriers_tracing_may_time_out(told: Told) -> None:
    """The first wait of a barrier is to be satisfied; those for its explanation need not be."""
    with pytest.raises(DistStoreError):
        barrier(told.store(0), 2, "epoch", 0.01, rank=0, trace_timeout=0.01)
    waits = [row for row in told.take() if row[0] is WaitBegan]
    assert [(keys, may_timeout) for _, _, _, keys, _, _, may_timeout, *_ in waits] == [
        (("epoch/last_member",), False),
        (("epoch1/TRACE",), True),
    ]


def test_writers_are_declared_where_the_place_is_the_stores(told: Told) -> None:
    """A collective of a part of the ranks has other numbers, and says nothing."""
    store = told.store(1)
    store.place = (1, 2)
    for size in (2, 3):
        with pytest.raises(DistStoreError):
            synchronize(store.clone(), "x", 1, size, f"{size}/", timeout=0.01)
    waits = [row for row in told.take() if row[0] is WaitBegan]
    assert [writers for *_, writers, _ in waits] == [(0, 1), ()]


def test_get_all_is_a_barrier_too(told: Told) -> None:
    """Rank 0 waits until all have read."""
    store = told.store(0)
    store.set("a0", "x")
    assert get_all(store, 0, "a", 1) == [b"x"]
    assert (BarrierJoined, 0, "a/finished", 1, 1) in told.take()


def test_a_client_that_goes_is_told(told: Told, threads: Any, wait_for: Any) -> None:
    """As the end of its wait, or as that of its connection."""
    idle, blocked = told.store(0), told.store(1)
    idle.set("a", "1")
    threads.start(lambda: blocked.wait(["b"]))
    wait_for(lambda: len(told.events) == 3)
    blocked.close()
    wait_for(lambda: len(told.events) == 4)
    idle.close()
    wait_for(lambda: len(told.events) == 5)
    assert told.take()[3:5] == [(WaitEnded, 1, "gone"), (ClientLeft, 0)]


def test_threads_of_a_rank_are_told_apart(told: Told, threads: Any) -> None:
    """Each has a connection of its own."""
    store = told.store(0)
    store.set("a", "1")
    threads(lambda: store.set("b", "1"))
    numbers = [event.client for event in told.events if isinstance(event, StoreCalled)]
    assert len(set(numbers)) == 2
