"""The server's loop against clients that are slow, wrong, hostile, or dead."""

from __future__ import annotations

import logging
import os
import random
import resource
import selectors
import signal
import socket
import struct
import threading
import time
from typing import Any

import psutil
import pytest
from machine import late

from pytest_elastic import pristine
from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistNetworkError, DistStoreError
from pytest_elastic.loop import Loop
from pytest_elastic.store import RemoteStore, StoreServer, StoreState, recording
from pytest_elastic.store._service import Service
from pytest_elastic.store._wire import (
    ADOPT,
    GREETING,
    INSPECTED,
    MAX_FRAME,
    MAX_VALUE,
    REQUESTS,
    VERSION,
    unpack_answer,
)

FUZZ_SECONDS = float(os.environ.get("ELASTIC_FUZZ_SECONDS", "1"))
PROMPT = 5.0  # Seconds; what is meant is much less, on a machine that has nothing else to do.


def prompt(store: RemoteStore) -> None:
    """The server serves this one meanwhile."""
    began = SYSTEM_CLOCK.monotonic()
    assert store.add("healthy", 1) > 0
    assert SYSTEM_CLOCK.monotonic() - began < late(PROMPT)


def test_operations_have_one_order(server: StoreServer, fork: Any) -> None:
    """Every sum comes once, in each client's order."""
    address = server.address
    children = [fork(lambda: [RemoteStore(address).add("n", 1) for _ in range(50)]) for _ in range(4)]
    sums = [child.outcome() for child in children]
    assert all(part == sorted(part) for part in sums)
    assert sorted([number for part in sums for number in part]) == list(range(1, 201))


@pytest.mark.parametrize("operation", ["wait", "queue_pop"])
def test_a_killed_client_is_forgotten(server: StoreServer, fork: Any, waiting: Any, operation: str) -> None:
    """No waiter is left, and an element pushed later goes to somebody else."""
    address = server.address
    argument = ["q"] if operation == "wait" else "q"
    child = fork(lambda: getattr(RemoteStore(address), operation)(argument))
    waiting(1)
    child.kill()
    began = SYSTEM_CLOCK.monotonic()
    waiting(0)
    assert SYSTEM_CLOCK.monotonic() - began < late(PROMPT)
    store = server.store()
    store.queue_push("q", "1")
    assert store.queue_pop("q", False) == b"1"


def test_an_element_that_cannot_be_delivered_goes_to_the_next(server: StoreServer, threads: Any) -> None:
    """The server finds out only when it answers."""
    state = server.state
    service = server._service
    ours, theirs = socket.socketpair()
    made = threading.Event()
    store = server.store()

    def make_popper() -> None:
        service.add_door(ours, "dead")
        connection = service.transport.connections[ours.fileno()]
        connection.greet()
        service.request(connection, REQUESTS["queue_pop"].pack((300.0, 0.0, "q", True)))
        theirs.close()
        service.transport.selector.modify(connection.socket, 1, lambda: None)  # The news of its end is late.
        connection.socket.shutdown(socket.SHUT_RDWR)
        made.set()

    server.loop.post(make_popper)
    assert made.wait(PROMPT)
    store.queue_push("q", "1")
    assert store.queue_pop("q") == b"1"
    assert state.waiters() == []


def test_a_stopped_client_is_not_forgotten(server: StoreServer, fork: Any, waiting: Any) -> None:
    """It has its answer when it goes on."""
    address = server.address
    child = fork(lambda: RemoteStore(address).get("k"))
    waiting(1)
    child.kill(signal.SIGSTOP)
    server.store().set("k", "1")
    waiting(0)
    time.sleep(0.05)
    child.kill(signal.SIGCONT)
    assert child.outcome() == b"1"


def test_a_client_killed_in_mid_frame_stores_nothing(server: StoreServer, raw: Any) -> None:
    """Half of 16 MiB."""
    client = raw()
    client.send(REQUESTS["set"].pack(("k", bytes(MAX_VALUE)))[: MAX_VALUE // 2])
    store = server.store()
    prompt(store)
    client.end.close()
    assert not store.check(["k"])


def test_an_error_inside_the_server_is_the_callers(server: StoreServer) -> None:
    """Whatever it is, the others and the connection go on."""
    store, other = server.store(), server.store()
    server._service._methods["append"] = lambda key, value: 1 / 0
    with pytest.raises(DistStoreError, match="ZeroDivisionError"):
        store.append("k", "1")
    prompt(store)
    prompt(other)


def test_a_planned_fault_hits_its_caller_only(server: StoreServer) -> None:
    """`fail` on the recording of a served store."""
    store, other = recording(server.store()), server.store()
    other.set("k", "1")
    store.fail("wait", DistStoreError("planned"))
    with pytest.raises(DistStoreError, match="planned"):
        store.wait(["k"])
    other.wait(["k"])
    store.wait(["k"])


GARBAGE = {
    "an empty frame": struct.pack(">I", 0),
    "a huge frame": struct.pack(">I", MAX_FRAME + 1),
    "an unknown operation": struct.pack(">IB", 1, 200),
    "no fields": struct.pack(">IB", 1, REQUESTS["set"].code),
    "a field that is too long": struct.pack(">IBI", 5, REQUESTS["delete_key"].code, 10),
    "a key that is not UTF-8": struct.pack(">IBI", 6, REQUESTS["delete_key"].code, 1) + b"\xff",
    "a second greeting": GREETING.pack((VERSION, b"")),
    "a socket without a door": ADOPT.pack((False,)),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_its_connection_only(server: StoreServer, raw: Any, garbage: bytes) -> None:
    """An error that says why, and a hang-up."""
    store = server.store()
    prompt(store)
    client = raw()
    client.send(garbage)
    assert client.refusal()
    prompt(store)


def test_a_first_frame_must_be_a_greeting(server: StoreServer, raw: Any) -> None:
    """An operation is not served before."""
    client = raw(greeted=False)
    client.send(REQUESTS["set"].pack(("k", b"1")))
    assert client.refusal() == "the first frame must be a greeting"
    assert not server.store().check(["k"])


def test_a_stranger_may_not_announce_more_than_4_kib(server: StoreServer, raw: Any) -> None:
    """Refused by the announcement."""
    client = raw(greeted=False)
    client.send(struct.pack(">I", 4097))
    assert client.refusal() == "a frame of 4097 bytes; the limit is 4096"


def test_a_stranger_who_does_not_greet_is_sent_away(server: StoreServer, raw: Any, monkeypatch: Any) -> None:
    """He must not hold descriptors for ever."""
    monkeypatch.setattr("pytest_elastic.store._transport._GREETING_TIME", 0.05)
    assert raw(greeted=False).refusal() == "no greeting within 0.05 s"


def test_one_byte_at_a_time_is_served(server: StoreServer, raw: Any) -> None:
    """Slowly, and the others meanwhile."""
    store, client = server.store(), raw()
    for byte in REQUESTS["set"].pack(("k", b"1")):
        client.send(bytes([byte]))
        prompt(store)
    assert unpack_answer(REQUESTS["set"], client.answer()) is None
    assert store.get("k") == b"1"


def test_a_hang_up_in_mid_frame_is_forgotten(server: StoreServer, raw: Any, wait_for: Any) -> None:
    """Also of one that never greeted."""
    for greeted in (True, False):
        client = raw(greeted=greeted)
        client.send(b"\0\0\0\x09\1")
        client.end.close()
    wait_for(lambda: not server._service.transport.connections)
    assert not server._service.transport._strangers


def test_a_slow_reader_is_held_back(server: StoreServer, raw: Any) -> None:
    """1000 gets of 1 MiB, answered as they are read; the others are not affected."""
    store, client = server.store(), raw()
    value = bytes(2**20)
    store.set("big", value)
    request = REQUESTS["get"].pack((1.0, 0.0, "big"))
    before = psutil.Process().memory_info().rss
    client.send(request * 1000)
    for _ in range(20):
        prompt(store)
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    for _ in range(30):
        assert unpack_answer(REQUESTS["get"], client.answer()) == value
    prompt(store)


def test_requests_sent_ahead_are_answered_in_order(server: StoreServer, raw: Any) -> None:
    """Also behind one that is blocked."""
    store, client = server.store(), raw()
    client.send(
        REQUESTS["get"].pack((30.0, 0.0, "k")) + b"".join(REQUESTS["add"].pack(("n", 1)) for _ in range(5))
    )
    prompt(store)
    assert not store.check(["n"])
    store.set("k", "1")
    assert unpack_answer(REQUESTS["get"], client.answer()) == b"1"
    assert [unpack_answer(REQUESTS["add"], client.answer()) for _ in range(5)] == [1, 2, 3, 4, 5]


def test_too_much_sent_ahead_is_refused(server: StoreServer, raw: Any, waiting: Any) -> None:
    """Memory stays bounded while an operation is blocked."""
    client = raw()
    client.send(REQUESTS["get"].pack((30.0, 0.0, "k")))
    waiting(1)
    with pytest.raises((ConnectionError, AssertionError)):
        for _ in range(100):
            client.send(bytes(2**16))
        assert "sent ahead" not in client.refusal()
    waiting(0)


def test_half_frames_take_no_more_memory_than_they_have(server: StoreServer, raw: Any) -> None:
    """Below 64 MiB for a connection, whatever it announces."""
    store = server.store()
    before = psutil.Process().memory_info().rss
    clients = [raw() for _ in range(20)]
    for client in clients:
        client.send(struct.pack(">IB", MAX_FRAME, REQUESTS["append"].code) + bytes(2**16))
    prompt(store)
    assert psutil.Process().memory_info().rss - before < 32 * 2**20


def test_another_version_is_refused(server: StoreServer, raw: Any, caplog: Any) -> None:
    """With both versions, and a line in the log."""
    client = raw(greeted=False)
    client.greet(version=7)
    assert client.refusal() == f"the server speaks version {VERSION} of the protocol, the client 7"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the client 7" in caplog.text


def test_a_wrong_token_is_refused(caplog: Any) -> None:
    """One error, logged, without the token."""
    with StoreServer.over_tcp(token="0123456789abcdef") as server:
        for token in ("wrong", None, "0123456789abcdeF"):
            with pytest.raises(DistNetworkError, match="wrong token"):
                RemoteStore(server.address, token).set("k", "1")
        RemoteStore(server.address, "0123456789abcdef").set("k", "1")
    assert len(caplog.records) == 3
    assert "0123456789" not in caplog.text


def test_another_user_is_refused(server: StoreServer, raw: Any, monkeypatch: Any, caplog: Any) -> None:
    """Even one who gets at the socket."""
    monkeypatch.setattr("pytest_elastic.store._address.peer_user", lambda peer: os.geteuid() + 1)
    client = raw(greeted=False)
    assert client.refusal() == f"user {os.geteuid() + 1} is not the owner of this store"
    assert len(caplog.records) == 1


def test_many_descriptors_are_refused(server: StoreServer) -> None:
    """A door takes one for each socket that is handed in."""
    door = server.pair()
    door.sendall(GREETING.pack((VERSION, b"")))
    door.recv(100)
    with open(os.devnull) as file:
        with pytest.raises(OSError):
            for _ in range(100):
                socket.send_fds(door, [b"\0"], [file.fileno()] * 4)
                time.sleep(0.001)
    door.close()


def test_only_sockets_can_be_handed_in(server: StoreServer) -> None:
    """Another kind of descriptor is closed; the door goes on."""
    door = server.pair()
    door.settimeout(PROMPT)
    door.sendall(GREETING.pack((VERSION, b"")))
    assert unpack_answer(GREETING, door.recv(100)) is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        socket.send_fds(door, [ADOPT.pack((False,))], [other.fileno()])
    with open(os.devnull) as file:  # Two in one piece: the second is served from the backlog.
        socket.send_fds(door, [ADOPT.pack((False,)) * 2], [file.fileno()] * 2)
    door.sendall(ADOPT.pack((False,)))  # And none at all.
    door.sendall(REQUESTS["add"].pack(("n", 1)))
    assert unpack_answer(REQUESTS["add"], door.recv(100)) == 1
    assert len(server._service.transport.connections) == 1
    door.close()


def test_descriptors_used_up(server: StoreServer, raw: Any, wait_for: Any, caplog: Any) -> None:
    """An error for the new client only; served again after one closes."""
    store = server.store()
    prompt(store)
    address = server.address.removeprefix("unix:")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ends = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for end in ends[:2]:
            end.connect(address)
            end.settimeout(PROMPT)
            with pytest.raises(DistNetworkError, match="Too many open files"):
                unpack_answer(GREETING, end.recv(1000))
            prompt(store)
        os.close(held.pop())
        ends[2].connect(address)
        ends[2].sendall(GREETING.pack((VERSION, b"")))
        ends[2].settimeout(PROMPT)
        assert unpack_answer(GREETING, ends[2].recv(1000)) is None
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for end in ends:
            end.close()
    assert len(caplog.records) == 2


def test_the_spare_descriptor_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked meanwhile does not close what has its number by then."""
    service, seen = Service(StoreState()), []
    close = os.close

    def note(descriptor: int) -> None:
        seen.append(service.transport._reserve._descriptor)
        close(descriptor)

    monkeypatch.setattr(pristine.os, "close", note)
    service.transport.let_go()
    service.transport.let_go()
    assert seen == [None]


def test_a_client_that_hangs_up_while_it_is_looked_at(
    server: StoreServer, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may refuse to say who it was; the others go on."""
    store = server.store()
    prompt(store)

    def refuse(peer: socket.socket) -> int:
        raise OSError("Invalid argument")

    monkeypatch.setattr("pytest_elastic.store._address.peer_user", refuse)
    assert raw(greeted=False).answer() == b""
    prompt(store)


def test_a_notify_storm_loses_nobody(server: StoreServer, raw: Any, waiting: Any) -> None:
    """64 waiters on 64 keys, one multi_set of all, each answered once, in 30 rounds."""
    store = server.store()
    clients = [raw() for _ in range(64)]
    for turn in range(30):
        keys = [f"{turn}/{i}" for i in range(64)]
        for client, key in zip(clients, keys, strict=True):
            client.send(REQUESTS["wait"].pack((30.0, 0.0, [key], False, ())))
        waiting(64)
        store.multi_set(keys, keys)
        for client in clients:
            assert unpack_answer(REQUESTS["wait"], client.answer()) is None


def test_a_write_at_the_deadline_is_seen() -> None:
    """What is ready is served before what has expired is told so."""
    loop = Loop()
    service = Service(StoreState(), selector=loop.selector)
    loop.add(service)
    ours, theirs = socket.socketpair()
    other, writer = socket.socketpair()
    for end in (ours, other):
        service.add_door(end, None)
        service.transport.connections[end.fileno()].greet()
    theirs.sendall(REQUESTS["wait"].pack((1e-9, 0.0, ["k"], False, ())))
    service.transport._act(service.transport.connections[ours.fileno()])
    writer.sendall(REQUESTS["set"].pack(("k", b"1")))
    loop.step()
    assert unpack_answer(REQUESTS["wait"], theirs.recv(100)) is None
    service.transport.close()
    loop.close()
    theirs.close()
    writer.close()


def test_timeouts_of_every_size(server: StoreServer) -> None:
    """Infinite, huge and odd ones; the server goes on."""
    store = server.store()
    for seconds in (0.0, -1.0, -float("inf")):
        with pytest.raises(DistStoreError):
            store.wait(["k"], seconds)
    store.set("k", "1")
    for seconds in (float("inf"), 1e300, 1e-300):
        store.wait(["k"], seconds)
    prompt(store)


def test_a_wait_without_end_ends_with_its_key(server: StoreServer, threads: Any, waiting: Any) -> None:
    """Beside one that expires meanwhile."""
    store = server.store()
    threads.start(lambda: store.wait(["k"], float("inf")))
    waiting(1)
    with pytest.raises(DistStoreError):
        store.wait(["x"], 0.01)
    store.set("k", "1")
    assert threads.join() == [None]


def test_connections_that_wait_cost_no_cpu(server: StoreServer, raw: Any, waiting: Any) -> None:
    """64 of them, for a while."""
    clients = [raw() for _ in range(64)]
    for i, client in enumerate(clients):
        client.send(REQUESTS["wait"].pack((300.0 + i, 0.0, [f"key{i}"], False, ())))
    waiting(64)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_a_needless_look_is_the_price_of_a_cheap_cancel(server: StoreServer) -> None:
    """A wait that was answered leaves a deadline behind, which passes without effect."""
    store = server.store()
    assert store.timeout.seconds == 300
    for _ in range(3):
        with pytest.raises(DistStoreError):
            store.wait(["x"], 0.001)
        store.barrier(f"b{_}", 1, 0.001)
    prompt(store)


KINDS = [
    *[
        ("set", "kv"),
        ("get", "ffk"),
        ("add", "kn"),
        ("compare_set", "kvv"),
        ("wait", "ffKbN"),
        ("check", "K"),
    ],
    *[("delete_key", "k"), ("append", "kv"), ("multi_set", "KV"), ("multi_get", "ffKbN"), ("num_keys", "")],
    *[("list_keys", ""), ("queue_push", "kv"), ("queue_pop", "ffkb"), ("queue_len", "k")],
    *[("barrier", "ffkn"), ("arrive", "knn"), ("members", "k")],
]


class Fuzzer:
    """Random bytes, mutated requests and odd descriptors, by one connection after the other."""

    def __init__(self, server: StoreServer, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)
        self.path = server.address.removeprefix("unix:")
        self.sent = 0

    def step(self) -> None:
        door = self.random.random() < 0.2
        greeted = self.random.random() < 0.9
        label = object()
        end = self.server.pair(label) if door else socket.socket(socket.AF_UNIX)
        try:
            if not door:
                end.connect(self.path)
            end.settimeout(0.001)
            if greeted:
                end.sendall(GREETING.pack((VERSION, b"")))
            for _ in range(self.random.randrange(1, 20)):
                self.send(end, door)
                self.sent += 1
                if self.random.random() < 0.3:
                    end.recv(65536)
        except OSError:
            pass
        end.close()
        self.server.drop(label)  # It has ended, and may have handed in its own end, which stays open then.

    def send(self, end: socket.socket, door: bool) -> None:
        if not door or self.random.random() < 0.5:
            end.sendall(self.data())
            return
        given = [end.fileno(), self.server.fileno(), 0][: self.random.randrange(4)]
        frame = self.random.choice([ADOPT.pack((False,)), ADOPT.pack((False,)) * 2, self.data()])
        socket.send_fds(end, [frame], given)

    def data(self) -> bytes:
        kind = self.random.randrange(4)
        if kind == 0:
            return self.random.randbytes(self.random.randrange(1, 200))
        frame = bytearray(self.request())
        if kind == 1:
            for _ in range(self.random.randrange(1, 4)):
                frame[self.random.randrange(len(frame))] = self.random.randrange(256)
        elif kind == 2:
            del frame[self.random.randrange(len(frame)) :]
        return bytes(frame)

    def request(self) -> bytes:
        pick = self.random.choice
        key, value = pick(["a", "b", "", "ü", "x" * 300]), self.random.randbytes(pick([0, 1, 5, 3000]))
        span, keys = pick([-1.0, 0.0, 0.001, 5.0, float("nan"), float("inf")]), ["a", "b"][: pick([0, 1, 2])]
        fields = {"f": span, "k": key, "v": value, "n": pick([0, 1, 2**62]), "b": pick([True, False])}
        fields |= {"K": keys, "V": [value] * len(keys), "N": pick([(), (0,), (-1, 2**62)])}
        if self.random.random() < 0.1:
            return INSPECTED.pack((span, pick([True, False]), True, fields["N"], (1,)))
        name, kinds = pick(KINDS)
        return REQUESTS[name].pack([fields[kind] for kind in kinds])


def test_fuzz(server: StoreServer, caplog: Any, wait_for: Any) -> None:
    """No crash, no hang, bounded memory, no leak, and a healthy client is served throughout."""
    caplog.set_level(logging.CRITICAL)
    store = server.store()
    seed = random.randrange(2**32) if FUZZ_SECONDS > 1 else 0
    fuzzer = Fuzzer(server, seed)
    before = psutil.Process().memory_info().rss
    end, rounds, grown = SYSTEM_CLOCK.monotonic() + FUZZ_SECONDS, 0, 0
    while SYSTEM_CLOCK.monotonic() < end:
        fuzzer.step()
        rounds += 1
        if rounds % 20 == 0:
            prompt(store)
        if rounds % 1000 == 0:
            grown = max(grown, psutil.Process().memory_info().rss - before)
            # What was stored is not the connections' memory.
            server.loop.post(server.state._values.clear)
            server.loop.post(server.state._queues.clear)
    prompt(store)
    wait_for(lambda: len(server._service.transport.connections) == 2)  # The healthy client's door and line.
    grown = max(grown, psutil.Process().memory_info().rss - before)
    assert grown < 64 * 2**20
    print(f"seed {seed}: {fuzzer.sent} messages on {rounds} connections, {grown / 2**20:.0f} MiB grown")


def test_another_loop_drives_the_service_with_its_own_selector() -> None:
    """It calls the data of the keys that are ready, and keeps its selector when the service is closed."""
    with selectors.DefaultSelector() as selector:
        service = Service(StoreState(), selector=selector)
        ours, theirs = socket.socketpair()
        service.add_door(ours, None)
        service.transport.connections[ours.fileno()].greet()
        theirs.sendall(REQUESTS["wait"].pack((0.02, 0.0, ["k"], False, ())))
        answers = []
        selector.register(theirs, selectors.EVENT_READ, lambda: answers.append(theirs.recv(1000)))
        while not answers:
            seconds = service.due() - SYSTEM_CLOCK.monotonic()
            ready = selector.select(min(seconds, PROMPT))
            for key, _ in ready:
                key.data()
            service.step(idle=not ready)
        with pytest.raises(DistStoreError, match="missing keys: 'k'"):
            unpack_answer(REQUESTS["wait"], answers[0])
        service.transport.close()
        assert [key.fileobj for key in selector.get_map().values()] == [theirs]
        theirs.close()
