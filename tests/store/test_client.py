"""A served store as its clients see it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from typing import Any

import psutil
import pytest
from machine import late

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistNetworkError, DistStoreError
from pytest_elastic.store import HashStore, RemoteStore, StoreServer
from pytest_elastic.store._wire import MAX_KEY, MAX_VALUE

OPERATIONS = [name for name in dir(HashStore) if not name.startswith("_")]


def test_has_every_operation() -> None:
    """Under the names of HashStore's."""
    assert len(OPERATIONS) == 23
    assert all(callable(getattr(RemoteStore, name)) or name == "timeout" for name in OPERATIONS)


def test_bytes_of_every_kind_arrive(server: StoreServer) -> None:
    """Keys and values up to the limits, number up to 64 bits."""
    store = server.store()
    key, value = "ü" * (MAX_KEY // 2), bytes(range(256)) * (MAX_VALUE // 256)
    store.set(key, value)
    assert store.get(key) == value
    assert store.list_keys() == [key]
    assert store.add("n", -(2**63)) == -(2**63)


def test_a_write_has_happened_when_the_call_returns(server: StoreServer) -> None:
    """Another client sees it at once."""
    first, second = server.store(), server.store()
    for number in range(200):
        first.set("k", str(number))
        assert second.get("k") == str(number).encode()


def test_an_operation_is_one_round_trip(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with many keys."""
    store = server.store()
    store.set("warm", "up")
    line, trips = store._lines.mine(), []
    exchange = line.exchange
    monkeypatch.setattr(line, "exchange", lambda frame, seconds: trips.append(1) or exchange(frame, seconds))
    keys = [f"key{i}" for i in range(64)]
    store.multi_set(keys, keys)
    store.multi_get(keys)
    store.wait(keys)
    store.barrier("b", 1)
    assert len(trips) == 4


def test_threads_do_not_wait_for_each_other(server: StoreServer, threads: Any, waiting: Any) -> None:
    """One thread waits, another sets, on one object."""
    store = server.store()
    threads.start(lambda: store.get("k"))
    waiting(1)
    store.set("k", "1")
    assert threads.join() == [b"1"]


def test_a_thread_that_ended_gives_its_connection_back(
    server: StoreServer, wait_for: Any, threads: Any
) -> None:
    """On both sides."""
    store = server.store()
    store.set("k", "1")
    threads(*[lambda: store.get("k")] * 20)
    wait_for(lambda: len(server._service.transport.connections) == 2)  # The door and this thread's.


@pytest.mark.parametrize("kind", ["pair", "unix"])
def test_after_a_fork(server: StoreServer, fork: Any, kind: str) -> None:
    """Over an address the child has a connection of its own; over a pair it is told."""
    store = server.store() if kind == "pair" else RemoteStore(server.address)
    store.set("k", "parent")
    child = fork(lambda: [store.get("k") for _ in range(100)])
    assert {store.get("k") for _ in range(100)} == {b"parent"}
    if kind == "pair":
        error = child.outcome()
        assert type(error) is DistNetworkError
        assert "forked" in str(error)
    else:
        assert child.outcome() == [b"parent"] * 100
    assert store.get("k") == b"parent"


def test_a_fork_does_not_wait_for_threads_locks(server: StoreServer, fork: Any) -> None:
    """A lock that another thread held at the fork is not inherited."""
    store = RemoteStore(server.address)
    with store._lines._lock:
        child = fork(lambda: store.set("k", "1"))
    assert child.outcome() is None
    assert store.get("k") == b"1"


@pytest.mark.parametrize("kind", ["pair", "unix"])
def test_a_server_that_closes_ends_all_operations(threads: Any, waiting: Any, kind: str, server: Any) -> None:
    """Blocked and later ones, with the address in the text."""
    store = server.store() if kind == "pair" else RemoteStore(server.address)
    name = "a socket pair" if kind == "pair" else server.address
    for i in range(4):
        threads.start(lambda i=i: store.wait([f"key{i}"]))
    waiting(4)
    server.close()
    outcomes = threads.join()
    for _ in range(2):
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(DistNetworkError) as info:
            store.set("k", "1")
        assert SYSTEM_CLOCK.monotonic() - began < late(5)
        outcomes.append(info.value)
    assert [type(error) for error in outcomes] == [DistNetworkError] * 6
    assert all(name in str(error) for error in outcomes)


def test_a_server_that_is_killed_is_noticed_by_all_who_wait(server_process: Any, threads: Any) -> None:
    """64 waiters, 64 errors, at once."""
    address = server_process.stdout.readline().strip()
    store = RemoteStore(address)
    before = threading.Barrier(65)
    for i in range(64):
        threads.start(lambda i=i: (store.set(f"here{i}", ""), before.wait(), store.wait([f"key{i}"])))
    before.wait()
    time.sleep(0.1)  # Let most of them wait; the others find the server gone.
    server_process.kill()
    began = SYSTEM_CLOCK.monotonic()
    errors = threads.join()
    assert SYSTEM_CLOCK.monotonic() - began < late(5)
    assert [type(error) for error in errors] == [DistNetworkError] * 64
    os.unlink(address.removeprefix("unix:"))
    os.rmdir(os.path.dirname(address.removeprefix("unix:")))


def test_a_stopped_server_is_given_up(server_process: Any, wait_for: Any, monkeypatch: Any) -> None:
    """Some seconds after the operation's own timeout (one here instead of five)."""
    monkeypatch.setattr("pytest_elastic.store._client.GRACE", 1)
    monkeypatch.setattr("pytest_elastic.store._client._GRACE_OPTION", b"\1" + bytes(15))
    store = RemoteStore(server_process.stdout.readline().strip())
    process = psutil.Process(server_process.pid)
    for operation, least in ((lambda: store.add("n", 1), 1.0), (lambda: store.wait(["x"], 0.5), 1.5)):
        store.set("k", "1")
        process.suspend()
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(DistNetworkError, match="silent for 1 s after the operation's own timeout"):
            operation()
        assert least <= SYSTEM_CLOCK.monotonic() - began < least + late(5)
        process.resume()
    server_process.communicate("")


def test_nobody_listens() -> None:
    """An address without a server."""
    with pytest.raises(DistNetworkError, match="no store's server at unix:/nowhere"):
        RemoteStore("unix:/nowhere").get("k")
    with pytest.raises(ValueError, match="unix:/path or tcp://host:port, not 'localhost'"):
        RemoteStore("localhost").get("k")


def test_an_error_leaves_the_connection_usable(server: StoreServer) -> None:
    """Every kind of store error."""
    store = server.store()
    store.set("text", "x")
    store.set_timeout(0.001)
    line = store._lines.mine()
    for operation, kind in (
        (lambda: store.add("text", 1), ValueError),
        (lambda: store.get("missing"), DistStoreError),
        (lambda: store.queue_pop("missing", False), DistStoreError),
        (lambda: store.set("k" * (MAX_KEY + 1), ""), ValueError),
    ):
        with pytest.raises(kind):
            operation()
    assert store.get("text") == b"x"
    assert store._lines.mine() is line


def test_what_is_too_long_is_not_sent(server: StoreServer) -> None:
    """A ValueError with the limit and the size."""
    store = server.store()
    with pytest.raises(ValueError, match="value: 16777217 bytes, the limit is 16777216 bytes"):
        store.set("k", bytes(MAX_VALUE + 1))
    assert store.num_keys() == 0


def test_an_answer_that_is_too_long_is_an_error_of_its_own(server: StoreServer) -> None:
    """Of the caller only."""
    store = server.store()
    store.set("big", bytes(MAX_VALUE))
    with pytest.raises(ValueError, match="the limit is 67108864 bytes"):
        store.multi_get(["big"] * 4)
    assert len(store.multi_get(["big"] * 3)) == 3


def test_a_keyboard_interrupt_ends_a_wait(server: StoreServer, threads: Any, waiting: Any) -> None:
    """The answer that comes later is not taken for the next one's."""
    store = server.store()
    main = threading.get_ident()

    def interrupt() -> None:
        waiting(1)
        signal.pthread_kill(main, signal.SIGINT)

    threads.start(interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.get("k")
    store.set("k", "late")
    assert store.add("n", 1) == 1
    waiting(0)


def test_a_clone_has_its_own_timeout(server: StoreServer) -> None:
    """And shares the connections."""
    store = server.store()
    clone = store.clone()
    clone.set_timeout(1)
    clone.set("k", "1")
    assert (store.timeout.seconds, store.get("k")) == (300, b"1")
    assert clone._lines is store._lines


def test_a_store_can_be_made_again_from_the_address(server: StoreServer) -> None:
    """Though it cannot be pickled."""
    store = RemoteStore(server.address, timeout=7)
    with pytest.raises(TypeError, match="RemoteStore cannot be pickled or copied"):
        pickle.dumps(store)
    store.set("k", "1")
    assert (RemoteStore(server.address).get("k"), store.timeout.seconds) == (b"1", 7)


def test_a_closed_store_is_closed(server: StoreServer, threads: Any, waiting: Any) -> None:
    """Blocked and later operations of all threads raise."""
    store = server.store()
    threads.start(lambda: store.get("k"))
    waiting(1)
    store.close()
    (error,) = threads.join()
    assert type(error) is DistNetworkError
    with pytest.raises(DistNetworkError, match="closed"):
        store.set("k", "1")


def test_descriptors_are_close_on_exec(server: StoreServer) -> None:
    """The given socket, too."""
    given = server.pair()
    given.set_inheritable(True)
    store = RemoteStore(given)
    store.set("k", "1")
    ends = [store._lines.mine()._end, store._lines._dialer._door._end]
    ends += [connection.socket for connection in server._service.transport.connections.values()]
    assert len(ends) == 5 - 1
    assert not any(end.get_inheritable() for end in ends)


def test_a_default_timeout_of_sockets_does_not_matter(
    server: StoreServer, threads: Any, waiting: Any
) -> None:
    """`socket.setdefaulttimeout` is somebody else's."""
    socket.setdefaulttimeout(0.01)
    try:
        store = RemoteStore(server.address)
        threads.start(lambda: store.get("k"))
        waiting(1)
        time.sleep(0.03)
        store.set("k", "1")
        assert threads.join() == [b"1"]
    finally:
        socket.setdefaulttimeout(None)
