"""The life of a server: its thread, its descriptors, its address, its labels."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import pytest
from machine import late

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistNetworkError, DistStoreError
from pytest_elastic.store import RemoteStore, StoreServer


def open_files() -> int:
    return psutil.Process().num_fds()


def test_serves_one_latched_state(server: StoreServer) -> None:
    """The same state for every handle."""
    assert server.state.wake == "latched"
    server.store().set("k", "1")
    assert RemoteStore(server.address).get("k") == RemoteStore(server.pair()).get("k") == b"1"


def test_another_process_uses_the_address(server: StoreServer) -> None:
    """In a fresh interpreter."""
    code = (
        "import sys; from pytest_elastic.store import RemoteStore; RemoteStore(sys.argv[1]).set('k', 'there')"
    )
    subprocess.run([sys.executable, "-c", code, server.address], check=True, timeout=30)
    assert server.store().get("k") == b"there"


def test_a_pair_reaches_another_process(server: StoreServer, fork: Any, threads: Any) -> None:
    """Passed on by its descriptor; its threads get connections of their own."""
    end = server.pair("rank 1")

    def rank() -> list[bytes]:
        store = RemoteStore(end)
        threads.start(lambda: store.get("later"))
        time.sleep(0.01)
        store.set("later", "1")
        return [*threads.join(), store.get("later")]

    # Not the fork of a store but of a bare socket, as when a rank is forked with it.
    child = fork(rank)
    assert child.outcome() == [b"1", b"1"]
    end.close()


def test_store_has_the_servers_timeout() -> None:
    """Of the handles that the server gives."""
    with StoreServer(timeout=7) as server:
        assert server.store().timeout.seconds == 7


def test_a_unix_socket_is_this_users_only(server: StoreServer) -> None:
    """The directory 0700, the socket 0600, both gone after close."""
    path = server.address.removeprefix("unix:")
    folder = os.path.dirname(path)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    server.close()
    assert not os.path.exists(folder)


def test_nothing_listens_before_the_address_is_asked_for() -> None:
    """A server that is used by pairs has no file and no listening socket."""
    with StoreServer() as server:
        server.store().set("k", "1")
        assert server._listener is None
        assert server.address == server.address


def test_tcp_is_asked_for() -> None:
    """On 127.0.0.1, a port of the system's choice, a token of 128 bits or more."""
    with StoreServer.over_tcp() as first, StoreServer.over_tcp() as second:
        assert first.address.startswith("tcp://127.0.0.1:")
        assert first.address != second.address
        assert first.token != second.token
        assert len(bytes.fromhex(first.token)) * 8 >= 128
        RemoteStore(first.address, first.token).set("k", "1")
        with pytest.raises(DistNetworkError, match="wrong token"):
            RemoteStore(first.address, second.token).set("k", "1")


def test_a_short_token_is_refused() -> None:
    """16 bytes at least."""
    with pytest.raises(ValueError, match="a token has 16 bytes or more, not 15"):
        StoreServer.over_tcp(token="0123456789abcde")


def test_another_host_only_when_asked_for() -> None:
    """Any interface that the system has."""
    with StoreServer.over_tcp("127.0.0.2") as server:
        assert server.address.startswith("tcp://127.0.0.2:")
        RemoteStore(server.address, server.token).set("k", "1")


def test_close_leaves_nothing() -> None:
    """No thread, descriptor or file, within a second, whatever was going on."""
    before, threads = open_files(), threading.active_count()
    server = StoreServer.over_tcp()
    server.start()
    remote, paired = RemoteStore(server.address, server.token), server.store()
    remote.set("k", bytes(2**20))
    paired.get("k")
    began = SYSTEM_CLOCK.monotonic()
    server.close()
    assert SYSTEM_CLOCK.monotonic() - began < late(5)
    remote.close()
    paired.close()
    assert (open_files(), threading.active_count()) == (before, threads)


def test_close_is_idempotent_and_from_any_thread(threads: Any) -> None:
    """At once from many threads, before a start, and without one."""
    before = open_files()
    for _ in range(50):
        server = StoreServer()
        server.start()
        threads(*[server.close] * 8)
        server.close()
    StoreServer().close()
    never_started = StoreServer()
    end = never_started.pair()
    never_started.close()
    assert end.recv(1) == b""
    end.close()
    assert open_files() == before


def test_a_closed_server_is_closed() -> None:
    """What it could give is an error."""
    server = StoreServer()
    server.close()
    for use in (server.start, server.pair, server.store, lambda: server.address):
        with pytest.raises(DistNetworkError, match="the store's server is closed"):
            use()
    server.drop("nobody")


def test_start_is_idempotent() -> None:
    """One thread."""
    before = threading.active_count()
    with StoreServer() as server:
        server.start()
        assert threading.active_count() == before + 1


def test_a_server_that_cannot_start_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no thread left."""
    before, server = open_files(), StoreServer()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    server.close()
    assert open_files() == before


def test_a_loop_of_the_callers(threads: Any) -> None:
    """Without a thread, served when the caller says so."""
    server = StoreServer()
    store = server.store()
    threads.start(lambda: store.add("n", 1))
    assert server.fileno() >= 0
    while server.state.num_keys() == 0:
        server.poll(1.0)
    assert threads.join() == [1]
    store.close()
    server.close()


def test_poll_ends_waits(threads: Any) -> None:
    """In their time, though nothing can be read."""
    server = StoreServer()
    store = server.store()
    threads.start(lambda: store.wait(["k"], 0.01))
    while threads.outcomes[0] is None:
        server.poll(0.01)
    assert type(threads.outcomes[0]) is DistStoreError
    store.close()
    server.close()


def test_close_from_another_thread_ends_a_loop_of_the_callers(threads: Any) -> None:
    """Between two polls, not in the middle of one; and the next one says so."""
    before = open_files()
    for _ in range(30):
        server = StoreServer()
        polling = threading.Event()

        def loop(server: StoreServer = server, polling: threading.Event = polling) -> None:
            while True:
                server.poll(0.0)
                polling.set()
                server.poll(30.0)

        threads.start(loop)
        assert polling.wait(30)
        server.close()
    assert {str(error) for error in threads.join()} == {"the store's server is closed"}
    assert open_files() == before


def test_a_poll_that_outlasts_the_close_ends_the_server(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close is bounded; what it could not end is ended when the loop comes back."""
    monkeypatch.setattr("pytest_elastic.loop._CLOSING_TIME", 0.01)
    before, server = open_files(), StoreServer()
    busy, go_on = threading.Event(), threading.Event()

    def act() -> None:
        busy.set()
        assert go_on.wait(30)

    server.loop.post(act)
    threads.start(lambda: server.poll(30.0))
    assert busy.wait(30)
    server.close()
    assert open_files() > before
    go_on.set()
    threads.join()
    assert open_files() == before


def test_a_signals_handler_may_close_the_server_that_is_polled() -> None:
    """From within a poll."""
    server = StoreServer()
    store = server.store()
    old = signal.signal(signal.SIGALRM, lambda *_: server.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(DistNetworkError, match="closed"):
            while True:
                server.poll(30.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
    store.close()


def test_drop_forgets_a_label_at_once(server: StoreServer, threads: Any, waiting: Any) -> None:
    """Though somebody else holds the socket; the others stay."""
    dead, alive = server.pair("dead"), server.store("alive")
    copy = dead.dup()
    store = RemoteStore(dead)
    threads.start(lambda: store.queue_pop("q"))
    waiting(1)
    server.drop("dead")
    alive.queue_push("q", "1")
    assert alive.queue_pop("q", False) == b"1"
    assert type(threads.join()[0]) is DistNetworkError
    assert copy.recv(1) == b""
    copy.close()
    store.close()


def test_drop_knows_further_connections_of_a_label(server: StoreServer, threads: Any, waiting: Any) -> None:
    """Those of a client's other threads, too."""
    store = server.store(("rank", 1))
    for i in range(3):
        threads.start(lambda i=i: store.get(f"key{i}"))
    waiting(3)
    assert {waiter.client for waiter in server.state.waiters()} == {("rank", 1)}
    server.drop(("rank", 1))
    assert [type(error) for error in threads.join()] == [DistNetworkError] * 3
    waiting(0)


def test_a_program_that_a_rank_starts_does_not_keep_its_connection(
    server: StoreServer, fork: Any, wait_for: Any
) -> None:
    """The server sees the rank's end, though its program goes on."""
    address = server.address

    def rank() -> int:
        RemoteStore(address).set("k", "1")
        return subprocess.Popen(["sleep", "100"], close_fds=False).pid

    child = fork(rank)
    program = psutil.Process(child.outcome())
    try:
        wait_for(lambda: not server._service.transport.connections)
        assert program.is_running()
    finally:
        program.kill()


def test_a_forked_child_does_not_keep_the_servers_ends_open(server: StoreServer, fork: Any) -> None:
    """The client of a server that closes is told, whoever was forked meanwhile."""
    store = server.store()
    store.set("k", "1")
    child = fork(lambda: time.sleep(100))
    server.close()
    with pytest.raises(DistNetworkError):
        store.get("k")
    child.end()


def test_a_forked_child_cannot_harm_the_server(server: StoreServer, fork: Any) -> None:
    """Its copy is closed; the address is good for both."""
    address = server.address

    def child() -> object:
        server.close()
        RemoteStore(server.address).set("k", "child")
        with pytest.raises(DistNetworkError, match="closed"):
            server.pair()
        return server.address

    assert fork(child).outcome() == address
    assert RemoteStore(address).get("k") == b"child"


def test_a_child_forked_before_the_address_has_none(server: StoreServer, fork: Any) -> None:
    """It cannot listen for its parent."""
    error = fork(lambda: server.address).outcome()
    assert type(error) is DistNetworkError


def test_many_servers_one_after_the_other(server: StoreServer) -> None:
    """A new one for each test is cheap: no descriptor or thread adds up."""
    for turn in range(20):
        with StoreServer() as one:
            store = one.store()
            assert store.add("n", 1) == 1, turn
            store.close()


def test_a_pair_is_a_stream_socket(server: StoreServer) -> None:
    """It can be passed on by SCM_RIGHTS."""
    with server.pair() as end:
        assert (end.family, end.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
