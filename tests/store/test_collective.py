"""What ranks do together: the operations, the errors, and what must hold whatever the schedule."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import late

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline, VirtualClock
from pytest_elastic.errors import DistNetworkError, DistStoreError, QueueEmptyError
from pytest_elastic.store import (
    HashStore,
    MockStore,
    PrefixStore,
    RemoteStore,
    StoreServer,
    assert_ops,
    barrier,
    get_all,
    recording,
    store_timeout,
    synchronize,
)

OLD, NEW = timedelta(seconds=1234), timedelta(seconds=300)
DONE = "<val_ignored>"
GATHERED: list[tuple[Any, ...]] = [
    ("multi_get", ["p0", "p1", "p2"]),
    ("add", "p/finished/num_members", 1),
    ("set", "p/finished/last_member", DONE),
]
SLOW = 10.0  # Seconds that a bound of the contract may be exceeded by, on a machine that is busy.


# The operations.


def test_get_all_of_rank_0_waits_for_the_others() -> None:
    """And returns what multi_get returned."""
    store = MockStore(get=b"x")
    assert get_all(store, 0, "p", 3) == [b"x"] * 3
    assert_ops(store, [*GATHERED, ("wait", ["p/finished/last_member"])])


def test_get_all_of_another_rank_does_not() -> None:
    """Nor does it set the last key, unless it is the last."""
    store = MockStore(add=2)
    get_all(store, 1, "p", 3)
    assert_ops(store, GATHERED[:2])


def test_synchronize() -> None:
    """The data as it was given; the timeout there and back."""
    store = MockStore()
    data = b"data"
    assert synchronize(store, data, 0, 3, "p", 7) == [data, b"value", b"value"]
    wait = ("wait", ["p/finished/last_member"])
    before = [("timeout",), ("set_timeout", timedelta(seconds=7)), ("set", "p0", data)]
    assert_ops(store, [*before, *GATHERED, wait, ("set_timeout", OLD)])
    assert store.ops[2][2] is data


def test_synchronize_gives_everybody_everything(any_store: Any, threads: Any) -> None:
    """Bytes in rank order, the same on every rank."""
    stores = [any_store.clone() for _ in range(4)]
    calls = [lambda i=i: synchronize(stores[i], f"data{i}", i, 4, "p") for i in range(4)]
    assert threads(*calls) == [[b"data0", b"data1", b"data2", b"data3"]] * 4
    assert [store.timeout for store in stores] == [NEW] * 4


@pytest.mark.parametrize(("count", "last"), [(2, []), (3, [("set", "p/last_member", DONE)])])
def test_barrier(count: int, last: list[Any]) -> None:
    """Only the last one releases the others."""
    store = MockStore(add=count)
    assert barrier(store, 3, "p") is None  # type: ignore[func-returns-value]
    wait = ("wait", ["p/last_member"])
    before = [("timeout",), ("set_timeout", NEW), ("add", "p/num_members", 1)]
    assert_ops(store, [*before, *last, wait, ("set_timeout", OLD)])


def test_barrier_with_a_rank_calls_the_same() -> None:
    """Whatever it tells our stores beside."""
    plain, traced = MockStore(), MockStore()
    barrier(plain, 3, "p")
    barrier(traced, 3, "p", rank=2, rank_tracing_decoder=lambda rank: f"host {rank}")
    assert_ops(traced, plain.ops)


def test_store_timeout() -> None:
    """Reads, sets, restores."""
    store = MockStore()
    with store_timeout(store, 2.5) as nothing:
        assert nothing is None
    assert_ops(store, [("timeout",), ("set_timeout", timedelta(seconds=2.5)), ("set_timeout", OLD)])


def test_synchronize_and_store_timeout_restore_on_errors() -> None:
    """Whatever fails."""
    store = MockStore()
    store.fail("multi_get", DistStoreError("test"))
    with pytest.raises(DistStoreError, match="test"):
        synchronize(store, b"", 0, 2, "p")
    with pytest.raises(ZeroDivisionError):
        with store_timeout(store, 1):
            raise ZeroDivisionError
    assert [op for op in store.ops if op[0] == "set_timeout"][1::2] == [("set_timeout", OLD)] * 2


def test_a_failed_barrier_does_not_restore() -> None:
    """The one exception, pinned by a published test."""
    store = HashStore()
    with pytest.raises(DistStoreError):
        barrier(store, 2, "p", 0.01)
    assert store.timeout == timedelta(seconds=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: get_all(store, 0, "p", 0),
        lambda store: get_all(store, 2, "p", 2),
        lambda store: synchronize(store, b"", -1, 2, "p"),
        lambda store: barrier(store, 0, "p"),
        lambda store: barrier(store, 2, "p", rank=2),
        lambda store: barrier(store, 2, "p", rank=-1),
    ],
)
def test_sizes_and_ranks_out_of_range(call: Callable[[Any], object]) -> None:
    """A ValueError before any operation."""
    store = MockStore()
    with pytest.raises(ValueError, match=r"(world_size must be at least 1|rank must be 0 to 1), not"):
        call(store)
    assert store.ops == []


@pytest.mark.parametrize("name", ["get_all", "synchronize", "barrier"])
def test_nothing_else_is_called_on_real_stores(any_store: Any, threads: Any, name: str) -> None:
    """Two ranks on any store of ours; each calls what is listed, the last one the `set` besides."""
    stores = [recording(any_store.clone()) for _ in range(2)]
    any_store.multi_set(["p0", "p1"], ["0", "1"])
    span = stores[0]._store.timeout
    calls: dict[str, Callable[[int], object]] = {
        "get_all": lambda rank: get_all(stores[rank], rank, "p", 2),
        "synchronize": lambda rank: synchronize(stores[rank], str(rank), rank, 2, "p", 30),
        "barrier": lambda rank: barrier(stores[rank], 2, "p", 30, rank=rank),
    }
    answer = None if name == "barrier" else [b"0", b"1"]
    assert threads(*[lambda rank=rank: calls[name](rank) for rank in range(2)]) == [answer] * 2
    counter, last = ("p", "p/last_member") if name == "barrier" else ("p/finished", "p/finished/last_member")
    sets = [call for store in stores for call in store.ops if call == ("set", last, DONE)]
    assert len(sets) == 1
    for rank, store in enumerate(stores):
        expected: list[Any] = [("add", f"{counter}/num_members", 1)]
        if name != "barrier":
            expected.insert(0, ("multi_get", ["p0", "p1"]))
        if name == "barrier" or rank == 0:
            expected.append(("wait", [last]))
        if name == "synchronize":
            expected.insert(0, ("set", f"p{rank}", str(rank)))
        if name != "get_all":
            timeouts = [("timeout",), ("set_timeout", timedelta(seconds=30)), ("set_timeout", span)]
            expected = [*timeouts[:2], *expected, timeouts[2]]
        assert_ops([call for call in store.ops if call not in sets], expected)


# Tracing, on any store.


def failing(*answers: Any) -> MockStore:
    """A mock whose waits do these, one after the other: fail, or succeed (None)."""
    answer = iter(answers)

    def wait(*arguments: Any) -> None:
        error = next(answer)
        if error is not None:
            raise error

    return MockStore(wait=wait)


def test_a_decoder_needs_a_rank() -> None:
    """An AssertionError before any operation."""
    store = MockStore()
    with pytest.raises(AssertionError, match=r"^Tracing requires rank information$"):
        barrier(store, 2, "p", rank_tracing_decoder=str)
    assert store.ops == []


def test_without_a_rank_the_error_passes() -> None:
    """The very same."""
    error = DistStoreError("test")
    store = failing(error)
    with pytest.raises(DistStoreError) as info:
        barrier(store, 2, "p")
    assert info.value is error
    assert store.ops[-1] == ("wait", ["p/last_member"])


def test_rank_0_looks_for_traces() -> None:
    """One wait each; `trace_timeout` until the first is missing, then a millisecond."""
    lost = DistStoreError("test")
    store = failing(lost, None, lost, None, lost)
    with pytest.raises(DistStoreError) as info:
        barrier(store, 5, "p", 1, rank=0, rank_tracing_decoder=lambda rank: f"host {rank}", trace_timeout=0.5)
    half, short = timedelta(seconds=0.5), timedelta(milliseconds=1)
    assert_ops(
        store.ops[4:],
        [
            ("set", "p0/TRACE", DONE),
            ("wait", ["p1/TRACE"], half),
            ("wait", ["p2/TRACE"], half),
            ("wait", ["p3/TRACE"], short),
            ("wait", ["p4/TRACE"], short),
            ("set", "p/TRACING_GATE", DONE),
        ],
    )
    assert str(info.value) == (
        "Timed out waiting on barrier on rank 0, for key prefix: p"
        " (world_size=5, missing_ranks=[host 2, host 4], timeout=1)"
    )


def test_rank_0_stops_after_16_missing() -> None:
    """More are not looked for."""
    store = failing(*[DistStoreError("test")] * 100)
    with pytest.raises(DistStoreError, match=r"missing_ranks=\[1, 2, .* 16\], timeout=300"):
        barrier(store, 50, "p", rank=0)
    assert len([op for op in store.ops if op[0] == "wait"]) == 1 + 16
    assert store.ops[-1] == ("set", "p/TRACING_GATE", DONE)


def test_the_others_refer_to_rank_0() -> None:
    """After one wait, if rank 0 has looked."""
    store = failing(DistStoreError("test"), None)
    with pytest.raises(DistStoreError) as info:
        barrier(store, 3, "p", rank=2, rank_tracing_decoder=lambda rank: f"Rank {rank} host")
    assert_ops(store.ops[5:], [("set", "p2/TRACE", DONE), ("wait", ["p/TRACING_GATE"])])
    assert "missing_ranks=[[<check rank 0 (Rank 0 host) for missing rank info>]]" in str(info.value)


def test_the_first_error_is_raised_if_the_gate_never_opens() -> None:
    """On stores that do not know who came."""
    first = DistStoreError("first")
    with pytest.raises(DistStoreError) as info:
        barrier(failing(first, DistStoreError("second")), 3, "p", rank=1)
    assert info.value is first


class OtherStoreError(RuntimeError):
    """Another library's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


OtherStoreError.__name__ = "DistStoreError"


class DerivedError(OtherStoreError):
    """A kind of it."""


def test_the_error_has_the_stores_type() -> None:
    """By its name or a base's, without context, and with the fields of the first one."""
    with pytest.raises(DerivedError, match=r"^Timed out waiting on barrier on rank 0") as info:
        barrier(failing(DerivedError(7, "test"), None), 2, "p", rank=0)
    assert type(info.value) is DerivedError
    assert info.value.code == 7
    assert info.value.__suppress_context__


@pytest.mark.parametrize("error", [RuntimeError("Wait timeout"), DistNetworkError("gone"), KeyError("k")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    """Of the barrier's wait, and of the tracing."""
    store = failing(error)
    with pytest.raises(type(error)) as info:
        barrier(store, 2, "p", rank=1)
    assert info.value is error
    assert store.ops[-1][0] == "wait"
    with pytest.raises(type(error)) as info:
        barrier(failing(DistStoreError("test"), error), 2, "p", rank=1)
    assert info.value is error


def test_on_torchs_stores_torchs_error() -> None:
    """One except clause catches both."""
    distributed = pytest.importorskip("torch.distributed")
    with pytest.raises(distributed.DistStoreError, match=r"missing_ranks=\[1\]") as info:
        barrier(distributed.HashStore(), 2, "p", 0.01, rank=0, trace_timeout=0.01)
    assert type(info.value) is distributed.DistStoreError
    assert not hasattr(info.value, "missing_ranks")


# What our stores know.


def arrive(store: Any, ranks: list[int], world_size: int, threads: Any, **options: Any) -> dict[int, Any]:
    """What a barrier of these ranks gave each, on a clone of the store for each."""
    options = {"barrier_timeout": 0.15, "trace_timeout": 0.05} | options
    ready = threading.Barrier(len(ranks))

    def call(rank: int) -> None:
        clone = store.clone()
        ready.wait()
        barrier(clone, world_size, "p", rank=rank, **options)

    calls = [lambda rank=rank: call(rank) for rank in ranks]
    return dict(zip(ranks, threads(*calls), strict=True))


@pytest.mark.parametrize("ranks", [[0, 1, 3], [2, 3]])
def test_the_missing_are_exact_on_every_rank(any_store: Any, threads: Any, ranks: list[int]) -> None:
    """Rank 0 missing included."""
    began = SYSTEM_CLOCK.monotonic()
    errors = arrive(any_store, ranks, 4, threads)
    assert SYSTEM_CLOCK.monotonic() - began < late(0.7 + SLOW)
    for rank, error in errors.items():
        assert type(error) is DistStoreError
        assert error.arrived_ranks == ranks
        assert error.missing_ranks == sorted({0, 1, 2, 3} - set(ranks))
        assert error.elapsed >= 0.15
        assert f"Timed out waiting on barrier on rank {rank}, for key prefix: p (world_size=4, " in str(error)
        assert error.keys == ("p/last_member",)
    if 0 in ranks:
        assert f"missing_ranks=[{', '.join(map(str, errors[0].missing_ranks))}]" in str(errors[0])
    else:
        assert all(
            f"missing_ranks=[{', '.join(map(str, e.missing_ranks))}]" in str(e) for e in errors.values()
        )


def test_a_missing_rank_0_does_not_double_the_timeout(threads: Any) -> None:
    """The tracing of the others is bounded by its own timeout."""
    errors = arrive(HashStore(), [1], 2, threads, barrier_timeout=1.0, trace_timeout=0.05)
    assert errors[1].missing_ranks == [0]
    assert 1.0 <= errors[1].elapsed < 1.0 + late(1.0)  # Torch's: 2 s and more.


def test_all_the_waits_of_tracing_have_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """On our stores, though each trace comes just before the wait for it would end."""
    clock = VirtualClock()
    monkeypatch.setattr(
        "pytest_elastic.store._collective.Deadline",
        SimpleNamespace(after=lambda span: Deadline.after(span, clock)),
    )
    bounds: list[float] = []

    def wait(keys: Any, *span: timedelta) -> None:
        if not span:
            raise DistStoreError("test")
        bounds.append(min(keys.seconds, span[0].total_seconds()))
        clock.advance(min(bounds[-1], 0.4))
        if bounds[-1] < 0.4:
            raise DistStoreError("test")

    with pytest.raises(DistStoreError, match=r"missing_ranks=\[3, 4, 5\]"):
        barrier(MockStore(wait=wait), 6, "p", rank=0, trace_timeout=1.0)
    assert bounds == pytest.approx([1.0, 0.6, 0.2, 0.0, 0.0])
    assert clock.now == pytest.approx(1.0)


def test_the_decoder_names_the_missing(threads: Any) -> None:
    """Also where rank 0 cannot."""
    errors = arrive(HashStore(), [1], 3, threads, rank_tracing_decoder=lambda rank: f"host {rank}")
    assert "missing_ranks=[host 0, host 2]" in str(errors[1])


def test_sixteen_are_named_in_the_text_and_all_in_the_field(threads: Any) -> None:
    """As many as tracing names."""
    errors = arrive(HashStore(), [0], 30, threads)
    assert "15, 16], timeout" in str(errors[0])
    assert errors[0].missing_ranks == list(range(1, 30))


def test_the_last_rank_dies_before_it_releases_the_others(server: StoreServer, threads: Any) -> None:
    """All arrived, nobody is missing, and the text says so."""
    store = server.store()
    last = recording(server.store())
    last.fail("set", SystemExit)
    threads.start(lambda: barrier(store, 2, "p", 0.3, rank=0, trace_timeout=0.01))
    while not store.check(["p/num_members"]):
        time.sleep(0.001)
    with pytest.raises(SystemExit):
        barrier(last, 2, "p", rank=1)
    (error,) = threads.join()
    assert (error.missing_ranks, error.arrived_ranks) == ([], [0, 1])
    assert str(error).endswith("all ranks arrived, but nobody released the barrier in time")


def test_processes_that_are_killed(server: StoreServer, fork: Any, waiting: Any) -> None:
    """Between add and set the others time out; between set and wait they leave."""
    address = server.address
    for step, outcome in (("set", DistStoreError), ("wait", type(None))):
        prefix = f"dies before {step}"
        first = fork(
            lambda prefix=prefix: barrier(RemoteStore(address), 2, prefix, 0.5, rank=0, trace_timeout=0.01)
        )
        waiting(1)

        def die(prefix: str = prefix, step: str = step) -> None:
            store = recording(RemoteStore(address))
            store.delay(step, 1000.0)
            barrier(store, 2, prefix, rank=1)

        last = fork(die)
        while len(server.state._members.get(f"{prefix}/num_members", ())) < 2:
            time.sleep(0.001)
        if step == "wait":
            assert first.outcome() is None
        last.kill()
        if step == "set":
            error = first.outcome()
            assert type(error) is outcome
            assert (error.missing_ranks, error.arrived_ranks) == ([], [0, 1])


def test_processes_know_who_is_missing(server: StoreServer, fork: Any) -> None:
    """With pickled errors from each."""
    address = server.address
    children = [
        fork(lambda rank=rank: barrier(RemoteStore(address), 3, "p", 0.3, rank=rank, trace_timeout=0.3))
        for rank in (1, 2)
    ]
    assert [child.outcome().missing_ranks for child in children] == [[0], [0]]


def test_a_straggler_that_was_counted_is_never_accused(threads: Any) -> None:
    """It comes while rank 0 looks for traces, and is the last one."""
    store = HashStore()
    traced = recording(store)
    straggler = threading.Event()

    play = traced._answer

    def answer(name: str, arguments: Any) -> Any:
        if name == "wait" and arguments[0] == ["p1/TRACE"] and not straggler.is_set():
            straggler.set()
            barrier(store.clone(), 2, "p", rank=1)
        return play(name, arguments)

    traced._answer = answer  # type: ignore[method-assign]
    with pytest.raises(DistStoreError) as info:
        barrier(traced, 2, "p", 0.01, rank=0, trace_timeout=0.01)
    assert straggler.is_set()
    assert info.value.missing_ranks == []  # type: ignore[attr-defined]
    assert "missing_ranks=[]" in str(info.value)


def test_more_calls_than_ranks_pass_with_a_warning(any_store: Any, caplog: Any) -> None:
    """Which names the prefix."""
    barrier(any_store, 1, "once")
    assert caplog.records == []
    barrier(any_store, 1, "once")
    (record,) = caplog.records
    assert (record.levelno, "'once'" in record.getMessage()) == (logging.WARNING, True)
    assert "call number 2 of 1 passes at once" in record.getMessage()


def test_clones_keep_the_timeouts_of_threads_apart(threads: Any) -> None:
    """Sharing one object does not."""
    store = HashStore()
    store.set_timeout(5)
    clones = [store.clone() for _ in range(4)]
    for turn in range(20):
        calls = [lambda clone=clone, turn=turn: barrier(clone, 4, f"p{turn}") for clone in clones]
        assert threads(*calls) == [None] * 4
    assert [one.timeout.seconds for one in (store, *clones)] == [5] * 5


def test_a_prefix_used_twice_gives_what_is_there(threads: Any) -> None:
    """At once, without waiting for anybody."""
    store = HashStore()
    threads(*[lambda rank=rank: synchronize(store.clone(), f"old{rank}", rank, 2, "p") for rank in (0, 1)])
    assert synchronize(store, "new0", 0, 2, "p") == [b"new0", b"old1"]


def test_queue_errors_are_store_errors() -> None:
    """A kind of `DistStoreError` keeps its kind."""
    with pytest.raises(QueueEmptyError, match="Timed out"):
        barrier(failing(QueueEmptyError("odd", keys=("k",)), None), 2, "p", rank=0)


# Whatever the schedule.


@given(st.permutations(range(5)), st.integers(1, 4), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nobody_leaves_early_and_everybody_leaves(
    threads: Any, order: list[int], few: int, served: bool
) -> None:
    """K of n calls raise and know who is missing; n of n leave, after the last one came."""
    server = StoreServer() if served else None
    if server is not None:
        server.start()
    store: Any = HashStore() if server is None else server.store()
    entered, left = itertools.count(1), []

    def rank_calls(rank: int, prefix: str, size: int, seconds: float) -> Any:
        clone = store.clone()
        number = next(entered)
        barrier(clone, size, prefix, seconds, rank=rank, trace_timeout=0.02)
        left.append(number)

    some = order[:few]
    errors = threads(*[lambda rank=rank: rank_calls(rank, "few", 5, 0.02) for rank in some])
    assert left == []
    assert all(error.missing_ranks == sorted(set(range(5)) - set(error.arrived_ranks)) for error in errors)
    assert {rank for error in errors for rank in error.arrived_ranks} == set(some)
    assert threads(*[lambda rank=rank: rank_calls(rank, "all", 5, 30.0) for rank in order]) == [None] * 5
    assert len(left) == 5
    if server is not None:
        store.close()
        server.close()


@pytest.mark.parametrize("size", [2, 5])
def test_processes_leave_together(server: StoreServer, fork: Any, size: int) -> None:
    """Each has seen everybody's entry when it leaves, round after round."""
    address = server.address

    def rank() -> list[int]:
        store, seen = RemoteStore(address), []
        for turn in range(20):
            store.add(f"entered{turn}", 1)
            barrier(store, size, f"p{turn}")
            seen.append(store.add(f"entered{turn}", 0))
        return seen

    children = [fork(rank) for _ in range(size)]
    assert [child.outcome() for child in children] == [[size] * 20] * size


def test_a_killed_process_does_not_let_the_others_go(server: StoreServer, fork: Any, waiting: Any) -> None:
    """It was counted, the one that never comes was not."""
    address = server.address

    def rank(number: int) -> object:
        return barrier(RemoteStore(address), 3, "p", 1.0, rank=number, trace_timeout=0.01)

    victim, other = fork(lambda: rank(1)), fork(lambda: rank(2))
    waiting(2)
    victim.kill(signal.SIGKILL)
    error = other.outcome()
    assert (error.missing_ranks, error.arrived_ranks) == ([0], [1, 2])


def test_through_a_prefix_store(threads: Any) -> None:
    """Each prefix has its own ranks."""
    store = HashStore()
    PrefixStore("other", store).add("p/num_members", 1)
    errors = arrive(PrefixStore("mine", store), [1], 2, threads)
    assert errors[1].missing_ranks == [0]
    assert errors[1].keys == ("p/last_member",)
