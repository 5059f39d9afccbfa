"""One client as the server sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pytest_elastic.store._connection import Connection, Door
from pytest_elastic.store._wire import ADOPT, REQUESTS, WireError

ADD = REQUESTS["add"].pack(("n", 1))


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, "label")
    connection.greet()
    with theirs:
        yield connection, theirs
    connection.close()


def test_reading_never_blocks(pair: tuple[Connection, socket.socket]) -> None:
    """Nothing, a part, and the rest."""
    connection, client = pair
    assert connection.receive() == []
    client.sendall(ADD[:7])
    assert connection.receive() == []
    client.sendall(ADD[7:] + ADD)
    assert connection.receive() == [ADD, ADD]


def test_an_end_is_an_error(pair: tuple[Connection, socket.socket]) -> None:
    """Of the reading."""
    connection, client = pair
    client.close()
    with pytest.raises(ConnectionResetError, match="the client hung up"):
        connection.receive()


def test_writing_never_blocks(pair: tuple[Connection, socket.socket]) -> None:
    """What the client does not take is kept, and goes on when it does."""
    connection, client = pair
    answer = os.urandom(2**22)
    connection.send(answer)
    assert connection.busy
    assert connection.stuck
    received = b""
    while connection.stuck:
        received += client.recv(2**20)
        connection.flush()
    while len(received) < len(answer):
        received += client.recv(2**20)
    assert received == answer
    assert not connection.busy


def test_a_busy_client_may_send_a_little_ahead(pair: tuple[Connection, socket.socket]) -> None:
    """A megabyte, whole frames and parts together."""
    connection, client = pair
    connection.send(bytes(2**22))
    client.setblocking(False)
    with pytest.raises(WireError, match="more than 1048576 bytes sent ahead of an answer"):
        for _ in range(1000):
            client.send(REQUESTS["append"].pack(("k", bytes(10_000))))
            connection.backlog.extend(connection.receive())
    assert sum(map(len, connection.backlog)) <= 2**20


def test_strangers_are_read_in_small_pieces() -> None:
    """4 KiB before the token."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, None)
    theirs.sendall(bytes([0, 0, 16, 0]) + bytes(50_000))
    assert connection.receive() == []
    assert len(connection._frames.held) == 4096
    connection.close()
    theirs.close()


def test_a_door_takes_sockets_in_their_order() -> None:
    """Each comes with its frame; close-on-exec."""
    ours, theirs = socket.socketpair()
    door = Door(ours, "label")
    door.greet()
    given = [socket.socketpair() for _ in range(2)]
    for mine, _ in given:
        socket.send_fds(theirs, [ADOPT.pack((False,))], [mine.fileno()])
    frames = []
    while len(frames) < 2:
        frames += door.receive()
    for mine, other in given:
        adopted = door.adopted()
        assert adopted is not None
        assert not adopted.get_inheritable()
        adopted.send(b"x")
        assert other.recv(1) == b"x"
        for end in (adopted, mine, other):
            end.close()
    assert door.adopted() is None
    door.close()
    theirs.close()


def test_a_door_closes_what_nobody_asked_for() -> None:
    """Descriptors without a frame."""
    ours, theirs = socket.socketpair()
    door = Door(ours, "label")
    door.greet()
    with open(os.devnull) as file:
        socket.send_fds(theirs, [b"\0"], [file.fileno()])
    door.receive()
    (descriptor,) = door._descriptors
    door.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    theirs.close()


def test_a_door_closes_what_is_no_socket() -> None:
    """It is nobody's mistake but the client's."""
    ours, theirs = socket.socketpair()
    door = Door(ours, "label")
    door.greet()
    with open(os.devnull) as file:
        socket.send_fds(theirs, [ADOPT.pack((False,))], [file.fileno()])
    door.receive()
    (descriptor,) = door._descriptors
    assert door.adopted() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    door.close()
    theirs.close()


def test_a_plain_connection_takes_no_sockets(pair: tuple[Connection, socket.socket]) -> None:
    """Only pairs that the server made are doors."""
    connection, _ = pair
    assert connection.adopted() is None
