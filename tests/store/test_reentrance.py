"""A store that is used in the middle of a call of the same thread: by handlers, finalizers and callbacks."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_elastic.errors import DistNetworkError, DistStoreError
from pytest_elastic.store import HashStore, PrefixStore, RemoteStore, StoreServer, _client, _hash

LONG = 30.0
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGVTALRM)


@contextmanager
def handled(number: int, handler: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Call `handler` in the main thread whenever what this gives is called, from any thread."""
    main = threading.main_thread().ident
    assert main is not None
    old = signal.signal(number, lambda *_: handler())
    try:
        yield lambda: signal.pthread_kill(main, number)
    finally:
        signal.signal(number, old)


def connections(server: StoreServer) -> list[int]:
    """The numbers of all that are open, but for doors."""
    known = list(server._service.transport.connections.values())
    return sorted(one.whose[1] for one in known if type(one).__name__ == "Connection")


OPERATIONS: dict[str, tuple[Callable[[Any], object], object]] = {
    "set": (lambda store: store.set("k", "1"), None),
    "get": (lambda store: store.get("there"), b"x"),
    "add": (lambda store: store.add("n", 1), 1),
    "compare_set": (lambda store: store.compare_set("new", "", "1"), b"1"),
    "wait": (lambda store: store.wait(["there"]), None),
    "check": (lambda store: store.check(["there"]), True),
    "delete_key": (lambda store: store.delete_key("there"), True),
    "append": (lambda store: store.append("there", "y"), None),
    "multi_set": (lambda store: store.multi_set(["a", "b"], ["1", "2"]), None),
    "multi_get": (lambda store: store.multi_get(["there"] * 2), [b"x", b"x"]),
    "num_keys": (lambda store: store.num_keys() > 0, True),
    "list_keys": (lambda store: "there" in store.list_keys(), True),
    "queue_push": (lambda store: store.queue_push("q", "1"), None),
    "queue_pop": (lambda store: store.queue_pop("full"), b"1"),
    "queue_len": (lambda store: store.queue_len("full"), 1),
    "barrier": (lambda store: store.barrier("b", 1), None),
    "a big value": (lambda store: store.set("big", bytes(2**20)), None),
    "a timeout": (lambda store: _times_out(store), "never"),
}


def _times_out(store: Any) -> str:
    with pytest.raises(DistStoreError) as info:
        store.wait(["never"], 0.001)
    return info.value.keys[0].removeprefix("prefix/")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_handler_in_the_middle_of_every_wait(any_store: Any, threads: Any, number: int) -> None:
    """Each kind of wait goes on where it was, and ends by what the handler itself wrote."""
    writes: list[tuple[Callable[[Any], object], Callable[[Any], object]]] = [
        (lambda store: store.get("get"), lambda store: store.set("get", "1")),
        (lambda store: store.wait(["w", "v"]), lambda store: store.multi_set(["w", "v"], ["1", "2"])),
        (lambda store: store.multi_get(["m", "w"]), lambda store: store.append("m", "1")),
        (lambda store: store.queue_pop("q"), lambda store: store.queue_push("q", "1")),
        (lambda store: store.barrier("b", 2), lambda store: store.barrier("b", 2)),
    ]
    seen: list[int] = []
    other = any_store.clone()
    for wait, write in writes:
        with handled(
            number, lambda write=write: (seen.append(any_store.add("n", 1)), write(any_store))
        ) as send:
            threads.start(lambda: (other.wait([f"go {len(seen)}"]), _waits(any_store), send()))
            any_store.set(f"go {len(seen)}", "1")
            wait(any_store)
    assert seen == [1, 2, 3, 4, 5]


def _waits(store: Any) -> None:
    """Long enough for the main thread to be in its wait, as a rule; it is right where it is not, too."""
    threading.Event().wait(0.01)


@pytest.mark.parametrize("kind", ["pair", "unix"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_at_every_line_of_a_call(server: StoreServer, wait_for: Any, kind: str, name: str) -> None:
    """From the dialing on: both are answered, and the line that the inner one needed is closed."""
    operation, expected = OPERATIONS[name]
    for at in range(1000):
        server.state.__init__()  # type: ignore[misc]
        store = server.store() if kind == "pair" else RemoteStore(server.address)
        prepare(server)
        inner: list[int] = []
        with interrupted(at, partial(_add, store, inner)):
            assert operation(store) == expected, at
        assert store.add("inner", 1) == len(inner) + 1
        wait_for(lambda: len(connections(server)) <= 1)
        store.close()
        wait_for(lambda: not connections(server))
        if not inner:
            break
    assert 10 < at < 999


def _add(store: RemoteStore, answers: list[int]) -> None:
    answers.append(store.add("inner", 1))


def prepare(server: StoreServer) -> None:
    store = RemoteStore(server.pair())
    store.set("there", "x")
    store.queue_push("full", "1")
    store.close()


@contextmanager
def interrupted(at: int, act: Callable[[], object], file: str = _client.__file__) -> Iterator[None]:
    """Call `act` before the line with this number, of those of a file that are run."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            count += 1
            if count == at + 1:
                act()
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(old)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_handler_that_waits_at_every_line_of_a_hash_store(threads: Any, name: str) -> None:
    """For what another thread writes: the interrupted operation does not keep that one out."""
    operation, expected = OPERATIONS[name]
    for at in range(1000):
        store = HashStore()
        other = store.clone()
        store.set_timeout(LONG)
        store.set("there", "x")
        store.queue_push("full", "1")
        asked, answers = threading.Event(), list[bytes]()
        number = threads.start(partial(_answer, asked, other))
        with interrupted(at, partial(_ask, asked, store, answers), _hash.__file__):
            assert operation(store) == expected, at
        asked.set()
        threads.outcome(number)
        if not answers:
            break
        assert answers == [b"1"]
    assert 2 < at < 999


def _ask(asked: threading.Event, store: HashStore, answers: list[bytes]) -> None:
    asked.set()
    answers.append(store.get("inner"))


def _answer(asked: threading.Event, store: HashStore) -> None:
    assert asked.wait(LONG)
    store.set("inner", "1")


def test_a_call_in_a_call_in_a_call(server: StoreServer, waiting: Any, threads: Any, wait_for: Any) -> None:
    """Each waits, and each ends; what they needed is closed."""
    store, other = server.store(), server.store()
    store.set("warm", "1")
    got: list[bytes] = []
    with (
        handled(signal.SIGUSR1, lambda: got.append(store.get("inner"))) as first,
        handled(signal.SIGUSR2, lambda: got.append(store.get("innermost"))) as second,
    ):

        def send() -> None:
            for number, act in ((1, first), (2, second)):
                waiting(number)
                act()
            waiting(3)
            for number, key in ((2, "innermost"), (1, "inner"), (0, "outer")):
                other.set(key, key)
                waiting(number)

        threads.start(send)
        got.append(store.get("outer"))
    assert got == [b"innermost", b"inner", b"outer"]
    assert threads.join() == [None]
    wait_for(lambda: len(connections(server)) == 1)


def test_an_outer_wait_may_end_first(server: StoreServer, waiting: Any, threads: Any) -> None:
    """Its answer is there when the handler is done."""
    store, other = server.store(), server.store()
    with handled(signal.SIGUSR1, lambda: store.get("inner")) as send:

        def act() -> None:
            waiting(1)
            send()
            waiting(2)
            other.set("outer", "1")
            other.set("inner", "2")

        threads.start(act)
        assert store.get("outer") == b"1"


def test_signals_do_not_cost_a_connection_each(
    server: StoreServer, waiting: Any, threads: Any, wait_for: Any
) -> None:
    """One at most while the handler runs, and none when it is done."""
    store = server.store()
    store.set("warm", "1")
    most = [0]

    def handler() -> None:
        for _ in range(3):
            store.add("n", 1)
        most[0] = max(most[0], len(connections(server)))

    with handled(signal.SIGUSR1, handler) as send:

        def act() -> None:
            for number in range(1, 21):
                waiting(1)
                send()
                wait_for(lambda number=number: server.state.peek("n") == b"%d" % (3 * number))
                wait_for(lambda: len(connections(server)) == 1)
            server.loop.post(lambda: (server.state.set("k", b"1"), server._service._wake()))

        threads.start(act)
        assert store.get("k") == b"1"
    assert most == [2]
    assert threads.join() == [None]


def test_a_storm_of_signals(any_store: Any, threads: Any) -> None:
    """Every count of either side is there, and every element is taken once."""
    rounds, counts, over, ready = 300, [0], threading.Event(), threading.Event()

    def handler() -> None:
        counts[0] += 1
        any_store.add("n", 1)
        any_store.append("text", "h")
        any_store.queue_push("q", "h")
        ready.set()

    with handled(signal.SIGUSR1, handler) as send:

        def storm() -> None:
            while not over.is_set():
                ready.clear()
                send()
                ready.wait(1)
                time.sleep(random.uniform(0, 0.0003))

        threads.start(storm)
        for i in range(rounds):
            any_store.add("n", 1)
            any_store.append("text", "m")
            any_store.queue_push("q", "m")
            any_store.set(f"key{i}", "1")
            any_store.multi_get([f"key{i}", "n"])
        over.set()
        threads.join()
    assert counts[0] > 0
    total = rounds + counts[0]
    assert any_store.add("n", 0) == total
    assert any_store.get("text").count(b"m") == rounds
    assert (len(any_store.get("text")), any_store.queue_len("q")) == (total, total)
    popped = [any_store.queue_pop("q") for _ in range(total)]
    assert popped.count(b"m") == rounds


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, BlockingIOError, ZeroDivisionError])
@pytest.mark.parametrize("uses", [True, False])
def test_a_handler_that_raises_ends_the_call(
    server: StoreServer, waiting: Any, threads: Any, wait_for: Any, error: type[Exception], uses: bool
) -> None:
    """By its own error, whatever that is; the next call has a new line, and nothing of the old ones stays."""
    store = server.store()

    def handler() -> None:
        if uses:
            store.set("seen", "1")
        raise error("enough")

    with handled(signal.SIGUSR1, handler) as send:
        threads.start(lambda: (waiting(1), send()))
        with pytest.raises(error, match="enough"):
            store.get("never")
    assert store.check(["seen"]) == uses
    waiting(0)
    wait_for(lambda: len(connections(server)) == 1)


def test_a_handler_may_close_the_store_that_it_has_used(
    server: StoreServer, waiting: Any, threads: Any
) -> None:
    """The wait below it ends, too."""
    store = server.store()
    with handled(signal.SIGUSR1, lambda: (store.set("k", "1"), store.close())) as send:
        threads.start(lambda: (waiting(1), send()))
        with pytest.raises(DistNetworkError):
            store.get("never")
    with pytest.raises(DistNetworkError, match="closed"):
        store.set("k", "2")
    assert server.store().get("k") == b"1"


def test_a_handler_may_fork(server: StoreServer, waiting: Any, threads: Any) -> None:
    """The child has a line of its own, where it has an address."""
    store = RemoteStore(server.address)
    pids: list[int] = []

    def handler() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                store.set("k", "child")
            finally:
                os._exit(0)
        pids.append(pid)

    with handled(signal.SIGUSR1, handler) as send:
        threads.start(lambda: (waiting(1), send()))
        assert store.get("k") == b"child"
    os.waitpid(pids[0], 0)
    store.close()


class Finalized:
    """Uses a store when it is no more."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.myself = self  # A cycle, which only the collector of garbage ends.

    def __del__(self) -> None:
        self.act()


@pytest.mark.parametrize("kind", ["hash", "served"])
def test_finalizers_and_callbacks_in_any_thread(kind: str, server_process: Any, threads: Any) -> None:
    """`__del__` and the callbacks of weak references run wherever the collector does."""
    address = server_process.stdout.readline().strip()
    store: Any = HashStore() if kind == "hash" else RemoteStore(address)
    references, threshold = [], gc.get_threshold()

    def work() -> None:
        for i in range(200):
            store.add("n", 1)
            one = Finalized(lambda: store.add("inner", 1))
            references.append(weakref.ref(one, lambda _: store.add("called", 1)))
            del one
            store.multi_get(["n", "n"])
            store.set(f"key{i}", "1")

    gc.set_threshold(1)
    try:
        assert threads(work, work) == [None, None]
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert [store.add(key, 0) for key in ("n", "inner", "called")] == [400, 400, 400]
    server_process.communicate("")


@pytest.mark.parametrize("make", [HashStore, lambda: PrefixStore("p", HashStore())])
def test_over_torch(make: Any, threads: Any) -> None:
    """Through C++, too."""
    distributed = pytest.importorskip("torch.distributed")
    from pytest_elastic.store import torch_store

    bridge = distributed.PrefixStore("torch", torch_store(make()))
    with handled(signal.SIGUSR1, lambda: bridge.set("k", "1")) as send:
        threads.start(lambda: (_waits(bridge), send()))
        assert bridge.get("k") == b"1"
