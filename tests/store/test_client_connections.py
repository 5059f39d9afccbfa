"""One thread's connection, against servers that misbehave."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.store import RemoteStore
from pytest_elastic.store._client import Line, Lines, PairDialer
from pytest_elastic.store._wire import GREETING, REQUESTS, pack_answer, pack_refusal

DONE = pack_answer(GREETING, None)
LONG = 30.0


@pytest.fixture
def line() -> Iterator[tuple[Line, socket.socket]]:
    """A line, and the other end of it."""
    ours, theirs = socket.socketpair()
    line = Line(ours, "nowhere")
    with theirs:
        yield line, theirs
    line.close()


def fail(line: Line, seconds: float = 0.0) -> str:
    with pytest.raises(DistNetworkError) as info:
        line.exchange(DONE, seconds)
    assert not line.open
    return str(info.value)


def test_answers_may_come_in_pieces(line: Any, threads: Any) -> None:
    """However the network cuts them."""
    line, other = line
    answer = pack_answer(REQUESTS["get"], bytes(200_000))
    threads.start(lambda: [other.sendall(answer[i : i + 50_000]) for i in range(0, len(answer), 50_000)])
    assert line.exchange(DONE, 0.0) == answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (DONE + DONE, "broke the protocol: more than one answer"),
        (DONE + DONE[:-1], "broke the protocol: more than one answer"),
        (b"\xff" * 10, "broke the protocol: a frame of 4294967295 bytes"),
    ],
)
def test_a_server_that_breaks_the_protocol(line: Any, answer: bytes, text: str) -> None:
    """A DistNetworkError with its address; the line is closed."""
    line, other = line
    other.sendall(answer)
    assert text in fail(line)


@pytest.mark.parametrize("part", [b"", DONE[:-1]])
def test_a_server_that_hangs_up(line: Any, part: bytes) -> None:
    """Before or in an answer."""
    line, other = line
    other.sendall(part)
    other.shutdown(socket.SHUT_RDWR)
    assert fail(line).startswith("the store's server at nowhere is gone")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of a second instead of five."""
    monkeypatch.setattr(
        "pytest_elastic.store._client._GRACE_OPTION", bytes(8) + (50_000).to_bytes(8, "little")
    )


@pytest.mark.parametrize("part", [b"", DONE[:-1]])
def test_a_silent_server(impatient: None, line: Any, part: bytes) -> None:
    """Silent from the start, or in mid-answer."""
    line, other = line
    other.sendall(part)
    assert "has been silent" in fail(line, 0.01)


def test_a_server_that_takes_nothing(impatient: None, line: Any) -> None:
    """A request that does not fit into the buffers."""
    line, _ = line
    with pytest.raises(DistNetworkError, match="has been silent"):
        line.exchange(bytes(2**24), 0.0)


def test_a_late_answer_is_in_time(
    impatient: None, line: Any, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the operation's own timeout, after the first silence."""
    line, other = line

    silent = threading.Event()

    def answer_late() -> None:
        assert silent.wait(LONG)
        other.sendall(DONE)

    monkeypatch.setattr(Deadline, "after", lambda seconds: (silent.set(), Deadline(math.inf))[1])
    threads.start(answer_late)
    assert line.exchange(DONE, 30.0) == DONE


def test_a_server_that_refuses(threads: Any) -> None:
    """Its reason is the error, and nothing stays open."""
    ours, theirs = socket.socketpair()
    store = RemoteStore(ours)

    def refuse() -> None:
        (end,) = socket.recv_fds(theirs, 100, 1)[1]
        with socket.socket(fileno=end) as line:
            assert line.recv(100)  # The greeting: a server looks at it first.
            line.sendall(pack_refusal("the server speaks version 2 of the protocol, the client 1"))

    threads.start(refuse)
    with pytest.raises(DistNetworkError, match="version 2"):
        store.set("k", "1")
    store.close()
    theirs.close()


def test_a_line_that_broke_is_replaced(server: Any) -> None:
    """By the next operation of its thread."""
    store = server.store()
    store.set("k", "1")
    store._lines.mine().close()
    assert store.get("k") == b"1"


def test_a_line_in_use_is_closed_by_its_own_thread(line: Any, threads: Any) -> None:
    """Another one shuts it down: the number of a closed descriptor could be another file's at once."""
    line, _ = line
    receive, numbers = line._receive, []

    def close_meanwhile(seconds: float) -> bytes:
        threads(line.close)
        numbers.append(line._end.fileno())
        return receive(seconds)

    line._receive = close_meanwhile
    assert "it hung up" in fail(line)
    assert numbers[0] >= 0
    assert line._end.fileno() == -1


def test_an_idle_line_is_closed_at_once(line: Any, threads: Any) -> None:
    """By any thread."""
    line, other = line
    threads(line.close)
    assert (line._end.fileno(), other.recv(1)) == (-1, b"")
    assert "Bad file descriptor" in fail(line)


def test_lines_are_closed_when_they_are_forgotten() -> None:
    """Without a ResourceWarning: nobody tells a store that its thread has ended."""
    ours, theirs = socket.socketpair()
    Line(ours, "nowhere")
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_store_may_be_closed_while_it_dials(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal's handler; the new line is closed, too."""
    store = server.store()
    lines = store._lines
    dial, made = lines._dialer.dial, []

    def close_meanwhile(over: bool) -> Line:
        made.append(dial())
        store.close()
        return made[0]

    monkeypatch.setattr(lines._dialer, "dial", close_meanwhile)
    with pytest.raises(DistNetworkError, match="this store has been closed"):
        store.set("k", "1")
    assert not made[0].open


def test_the_given_socket_belongs_to_the_store() -> None:
    """It is closed with the store."""
    ours, theirs = socket.socketpair()
    lines = Lines(PairDialer(ours))
    assert ours.fileno() == -1
    lines.close()
    lines.close()
    assert theirs.recv(1) == b""
    theirs.close()


Dial = Callable[[], Line]
