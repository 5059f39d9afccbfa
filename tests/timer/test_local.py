"""Timers over a `multiprocessing` queue."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import pickle
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from machine import late

from pytest_elastic.processes import this_process
from pytest_elastic.timer import (
    LocalTimerClient,
    LocalTimerServer,
    MultiprocessingRequestQueue,
    TimerRequest,
    expires,
)

from .rigs import LATE, Rank, eventually


@pytest.fixture
def mp_queue() -> Iterator[Any]:
    """A queue that leaves nothing behind."""
    made = multiprocessing.get_context("fork").Queue()
    yield made
    made.close()
    made.join_thread()
    made._reader.close()
    made._writer.close()


class Unreadable:
    """Pickles, and raises when it is read."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def put(mp_queue: Any, *things: Any) -> None:
    """Returns when all can be read."""
    for thing in things:
        mp_queue.put(thing)
    eventually(lambda: mp_queue._reader.poll() and not mp_queue._buffer)


def requests(count: int) -> list[TimerRequest]:
    return [TimerRequest(number, "scope", 1.0) for number in range(count)]


def test_a_request_names_the_process_and_thread_that_made_it(mp_queue: Any) -> None:
    """Whoever made the client."""
    client = LocalTimerClient(mp_queue)
    rank = Rank(lambda: client.acquire("scope", time.time() + 5))
    found = mp_queue.get(timeout=10)
    assert found == TimerRequest(rank.process.pid, "scope", found.expiration_time)
    assert found.origin.started > this_process().started
    assert 0 < found.origin.deadline - time.monotonic() <= 5
    assert rank.end()[0] == 0
    rank.close()


def test_a_release_is_a_request_too(mp_queue: Any) -> None:
    """And its scope a plain text, which any server can read."""
    with expires(5, "exchange", client=LocalTimerClient(mp_queue)):
        pass
    acquired, released = mp_queue.get(timeout=10), mp_queue.get(timeout=10)
    assert released.expiration_time < 0
    assert {type(acquired.scope_id), type(released.scope_id)} == {str}
    assert acquired.origin.thread == released.origin.thread == threading.get_ident()


def test_size_is_what_was_put(mp_queue: Any) -> None:
    received = MultiprocessingRequestQueue(mp_queue)
    assert received.size() == 0
    put(mp_queue, *requests(3))
    assert received.size() == 3
    received.get(3, 1)


def test_get_returns_up_to_so_many_in_order(mp_queue: Any) -> None:
    """At once when they are there."""
    received = MultiprocessingRequestQueue(mp_queue)
    put(mp_queue, *requests(5))
    begun = time.monotonic()
    assert received.get(3, 30) == requests(5)[:3]
    assert received.get(2, 30) == requests(5)[3:]
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("there", [0, 2])
def test_get_returns_at_the_latest_after_its_timeout(mp_queue: Any, there: int) -> None:
    """In all, not for each."""
    received = MultiprocessingRequestQueue(mp_queue)
    for request in requests(there):
        put(mp_queue, request)
    begun = time.monotonic()
    assert received.get(10, 0.1) == requests(there)
    assert 0.1 <= time.monotonic() - begun < 0.1 + late(LATE)


def test_the_timeout_is_for_all_that_are_asked_for() -> None:
    """Not for each, from a queue that gives one every 20 ms."""

    class Dripping:
        def get(self, timeout: float) -> TimerRequest:
            time.sleep(min(0.02, timeout))
            if timeout < 0.02:
                raise queue.Empty
            return requests(1)[0]

    begun = time.monotonic()
    assert 0 < len(MultiprocessingRequestQueue(Dripping()).get(100, 0.1)) <= 5
    assert time.monotonic() - begun < 0.1 + late(LATE)


def test_what_cannot_be_read_is_logged_and_skipped(mp_queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    put(mp_queue, requests(2)[0], Unreadable(), requests(2)[1])
    assert MultiprocessingRequestQueue(mp_queue).get(3, 1) == requests(2)
    assert "cannot be read" in caplog.text


def test_a_closed_queue_is_an_error() -> None:
    """And what was got before is not lost."""
    made = multiprocessing.get_context("fork").Queue()
    received = MultiprocessingRequestQueue(made)
    put(made, *requests(1))
    real = made.get

    def get(timeout: float) -> Any:
        request = real(timeout=timeout)
        made._reader.close()
        return request

    made.get = get  # type: ignore[method-assign]
    assert received.get(2, 1) == requests(1)
    with pytest.raises(OSError):
        received.get(1, 0)
    made.close()
    made.join_thread()


def test_a_queue_without_a_descriptor_is_asked() -> None:
    """A manager's, or whatever has `put`, `get` and `qsize`."""
    made: Any = queue.Queue()
    with pytest.raises(io.UnsupportedOperation):
        MultiprocessingRequestQueue(made).fileno()
    server = LocalTimerServer(made)
    server.start()
    LocalTimerClient(made).acquire("scope", time.time() + 60)
    eventually(lambda: server.get_expired_timers(math.inf))
    server.stop()


def test_defaults(mp_queue: Any) -> None:
    server = LocalTimerServer(mp_queue)
    assert (server._max_interval, server._daemon) == (60, True)


def test_the_servers_own_timers_count_as_others(mp_queue: Any) -> None:
    """They are known; that another one expired does not concern them."""
    server = LocalTimerServer(mp_queue)
    server.start()
    with expires(60, client=LocalTimerClient(mp_queue)):
        eventually(lambda: server.get_expired_timers(math.inf))
        assert list(server.get_expired_timers(math.inf)) == [os.getpid()]
    eventually(lambda: not server.get_expired_timers(math.inf))
    server.stop()


def test_the_hazard_is_stated() -> None:
    """Of both."""
    for part in (LocalTimerClient, MultiprocessingRequestQueue):
        assert "killed inside `put` may leave the queue locked" in (part.__doc__ or "").replace("\n    ", " ")
    assert "may never have sent it" in (LocalTimerClient.__doc__ or "").replace("\n    ", " ")


def test_a_request_of_a_client_pickles_small(mp_queue: Any) -> None:
    """What is written at once is not torn apart by a kill."""
    LocalTimerClient(mp_queue).acquire("scope" * 20, time.time())
    assert len(pickle.dumps(mp_queue.get(timeout=10))) < 512
