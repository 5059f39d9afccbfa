"""Where threads stand: who is parked, who may go on by itself, who holds the other end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_elastic.processes import (
    Family,
    Thread,
    children,
    other_end,
    stand,
    threads,
)

LONG = 20.0


@pytest.fixture
def start() -> Iterator[Callable[..., Thread]]:
    """Run a call in a thread and see where it stands, once it is blocked: `start(call, end)`."""
    ends: list[Callable[[], object]] = []
    running: list[threading.Thread] = []

    def begin(call: Callable[[], object], end: Callable[[], object]) -> Thread:
        thread = threading.Thread(target=call, daemon=True)
        ends.append(end)
        running.append(thread)
        thread.start()
        deadline = time.monotonic() + LONG
        seen = None
        while time.monotonic() < deadline:
            last, seen = (
                seen,
                next(
                    (
                        one
                        for one in threads(os.getpid(), with_channels=True)
                        if one.number == thread.native_id
                    ),
                    None,
                ),
            )
            # Twice: a thread that waits for the interpreter's lock is not where it will be.
            if seen is not None and seen.channel and seen == last:
                return seen
            time.sleep(0.01)
        raise AssertionError("the thread was not blocked in time")

    def join() -> None:
        for thread in running:
            thread.join(LONG)

    begin.join = join  # type: ignore[attr-defined]
    yield begin
    for end in ends:
        end()
    join()


def held() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


def test_a_lock_of_the_process_parks(start: Any) -> None:
    """Only another thread can let it go on."""
    lock = held()
    thread = start(lock.acquire, lock.release)
    assert (thread.call, thread.parked) == ("futex", True)


def test_a_lock_with_a_timeout_does_not(start: Any) -> None:
    """It ends by itself."""
    lock = held()
    thread = start(lambda: lock.acquire(timeout=LONG), lock.release)
    assert not thread.parked
    assert not thread.lasting(os.getpid(), {os.getpid()})


def test_a_lock_that_processes_share_lasts(start: Any) -> None:
    """It is in the hands of the group, but not of the process alone."""
    lock = multiprocessing.get_context("fork").Lock()
    lock.acquire()
    thread = start(lock.acquire, lock.release)
    assert not thread.parked
    assert thread.lasting(os.getpid(), {os.getpid()})


def test_a_sleep_is_neither(start: Any) -> None:
    """However long it is."""
    awake = threading.Event()
    thread = start(lambda: time.sleep(0.5) or awake.set(), lambda: awake.wait(LONG))
    assert not thread.parked
    assert not thread.lasting(os.getpid(), {os.getpid()})


def test_a_pipe_lasts_among_its_holders(start: Any) -> None:
    """And the words on it name who else holds it."""
    reading, writing = os.pipe()
    with subprocess.Popen(["sleep", "60"], pass_fds=[writing]) as other:
        thread = start(lambda: os.read(reading, 1), lambda: None)
        assert not thread.lasting(os.getpid(), {os.getpid()})
        assert thread.lasting(os.getpid(), {os.getpid(), other.pid})
        assert other_end(thread, os.getpid()) == f"pid {other.pid} (sleep 60) at descriptor {reading}"
        other.kill()
    os.write(writing, b"x")
    start.join()
    os.close(writing)
    os.close(reading)


def test_a_socket_that_accepts_is_told_by_its_port(start: Any) -> None:
    """Of TCP; one of another kind has none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = start(lambda: server.accept()[0].close(), lambda: None)
        assert other_end(thread, os.getpid()) == f"port {port}"
        socket.create_connection(("127.0.0.1", port)).close()
        start.join()
    first, second = socket.socketpair()
    with first, second:
        assert other_end(replace(thread, arguments=(first.fileno(),)), os.getpid()) == ""


def test_a_thread_counts_as_waiting_where_it_waits_for_a_message() -> None:
    """One that sleeps may be in a signal's handler; a process that is gone has no threads."""
    before = {one.pid for one in children(os.getpid())}  # A zygote of an earlier test may be there.
    found = []
    for code in (
        "import _socket; ends = _socket.socketpair(); ends[0].recv(1)",
        "import time; time.sleep(60)",
    ):
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", code]) as process:
            begun = {one.pid for one in children(os.getpid())} - before
            deadline = time.monotonic() + LONG
            while threads(process.pid)[0].state != "S" and time.monotonic() < deadline:
                time.sleep(0.01)
            sight = Family(process.pid).look()
            found.append((sight.others(1), sight.others(0), sight.receives(1)))
            process.kill()
        assert begun == {process.pid}
    assert found == [(0, 1, True), (1, 1, False)]
    assert threads(process.pid) == []


@pytest.mark.parametrize(
    ("command", "state"),
    [("kill -STOP $$", "stopped"), ("while :; do :; done", "spinning"), ("read x", "blocked")],
)
def test_what_a_process_does(command: str, state: str) -> None:
    """It is stopped, computes, or is blocked, and then it is said in what."""
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + LONG
        seen: tuple[str, str, str] = ("", "", "")
        while (seen[0] != state or (state == "blocked" and not all(seen))) and time.monotonic() < deadline:
            (seen,) = stand([process.pid])
        assert seen[0] == state
        if state == "blocked":
            assert "pipe" in seen[1]
            assert f"pid {os.getpid()} " in seen[2]
        process.send_signal(signal.SIGKILL)


def test_who_asks_and_sleeps_does_not_compute() -> None:
    """It uses some time, and is found at work now and then: it is at rest, and said to be in a sleep."""
    code = "import time\nprint(1, flush=True)\nwhile True:\n    time.sleep(0.004)\n    end = time.monotonic() + 0.001\n    while time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            seen = [stand([process.pid])[0] for _ in range(20)]
        finally:
            process.kill()
    assert all(state == "blocked" and "nanosleep" in channel for state, channel, _ in seen), seen


@pytest.mark.parametrize("name", ["gloo_tcp_loop", "pt_gloo_runloop", "pt_tcpstore_uv"])
def test_threads_that_serve_torchs_groups_are_parked(name: str) -> None:
    """Whatever they wait in, they write to no store of the ranks."""
    assert Thread(7, name, "S", "ep_poll", "", (5,)).parked
    assert not Thread(7, "own", "S", "ep_poll", "", (5,)).parked
