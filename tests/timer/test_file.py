"""Timers over a named pipe."""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import late

from pytest_elastic.clock import SystemClock
from pytest_elastic.timer import FileTimerClient, FileTimerRequest, FileTimerServer, configure, expires

from .rigs import LATE, Events, Rank, assert_killed, eventually, hang, known, note, write

UNAVAILABLE = "^Could not send the FileTimerRequest because FileTimerServer is not available.$"


def rank(body: Callable[[], object], path: str, number: int = signal.SIGKILL) -> Rank:
    """A rank whose client is configured."""
    return Rank(body, lambda: configure(FileTimerClient(path, number)))


def test_a_stop_without_any_client_removes_the_pipe(server: FileTimerServer, path: str) -> None:
    """And returns."""
    server.start()
    server.stop()
    assert not os.path.exists(path)


def test_a_start_after_a_stop_makes_the_pipe_again(server: FileTimerServer, path: str) -> None:
    """With the timers known so far."""
    server.start()
    client = FileTimerClient(path)
    client.acquire("scope", time.time() + 60)
    eventually(lambda: known(server))
    server.stop()
    server.start()
    assert len(known(server)) == 1
    client.release("scope")
    eventually(lambda: not known(server))


def test_a_collected_server_leaves_no_pipe_no_thread_and_no_descriptor(path: str) -> None:
    before = os.listdir("/proc/self/fd")
    server = FileTimerServer(path, "run")
    server.start()
    del server
    gc.collect()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "FileTimerServer"])
    eventually(lambda: os.listdir("/proc/self/fd") == before)
    assert not os.path.exists(path)


def test_a_process_that_ends_leaves_no_pipe(path: str) -> None:
    """Though nobody stopped its server."""
    code = (
        "import sys; from pytest_elastic.timer import FileTimerServer\n"
        "s = FileTimerServer(sys.argv[1], 'run'); s.start()"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=30)
    assert not os.path.exists(path)


def test_a_fork_does_not_remove_the_pipe_nor_keep_it_open(server: FileTimerServer, path: str) -> None:
    """A reader that outlives its server would let clients write to nobody."""
    pid = os.fork()
    if pid == 0:
        held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        server.stop()
        os._exit(path in held)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.path.exists(path)


def test_the_events_of_a_life(server: FileTimerServer, path: str, events: Events) -> None:
    """Each timer that expired, and the one whose signal was sent."""
    server.start()
    server.start()

    def body() -> None:
        with expires(30, "outer"), expires(0, "first"), expires(0, "second"):
            time.sleep(30)

    culprit = rank(body, path)
    assert culprit.end()[0] == -signal.SIGKILL
    eventually(lambda: "kill worker process" in [name for name, _ in events])
    server.stop()
    server.stop()
    found = [(name, request and request.scope_id) for name, request in events]
    # The first may have been seen before the second was sent.
    second = ("timer expired", "second")
    assert [event for event in found if event != second] == [
        ("watchdog started", None),
        ("timer expired", "first"),
        ("kill worker process", "first"),
        ("watchdog stopped", None),
    ]
    culprit.close()


def test_a_log_event_that_raises_is_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """And changes nothing."""

    def fail(name: str, request: object) -> None:
        raise RuntimeError(name)

    server = FileTimerServer(path, "run", log_event=fail)
    server.start()
    culprit = rank(lambda: hang(0.05), path)
    assert_killed(culprit, 0.05)
    eventually(lambda: "kill worker process" in caplog.text)
    server.stop()
    assert "watchdog stopped" in caplog.text
    culprit.close()


@pytest.mark.parametrize("started", [True, False])
def test_run_once_handles_what_was_written(server: FileTimerServer, path: str, started: bool) -> None:
    """Ends the watchdog, and removes the pipe."""
    if started:
        server.start()
    culprit = Rank(lambda: time.sleep(30))
    expired = FileTimerRequest(culprit.process.pid or 0, "expired", time.time(), signal.SIGTERM)
    armed = FileTimerRequest(os.getpid(), "armed", time.time() + 60)
    write(path, expired.to_line(), armed.to_line())
    server.run_once()
    assert culprit.end()[0] == -signal.SIGTERM
    assert known(server) == [armed]
    assert not os.path.exists(path)
    assert not [thread for thread in threading.enumerate() if thread.name == "FileTimerServer"]
    culprit.close()


def test_whether_a_process_runs() -> None:
    """A zombie does not."""
    assert FileTimerServer.is_process_running(os.getpid())
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not FileTimerServer.is_process_running(process.pid)
    assert not FileTimerServer.is_process_running(-1)


def test_the_last_progress_time(server: FileTimerServer, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now, before the first client."""
    now = [1000.9]
    monkeypatch.setattr(SystemClock, "time", lambda self: now[0])
    assert server.get_last_progress_time() == 1000
    now[0] = 2000.9
    assert server.get_last_progress_time() == 2000
    write(path, FileTimerRequest(os.getpid(), "a", 9000).to_line())
    server.run_once()
    now[0] = 3000.9
    progress = server.get_last_progress_time()
    assert (progress, type(progress)) == (2000, int)


def test_the_first_signal_that_is_one_is_sent(server: FileTimerServer, path: str, events: Events) -> None:
    """By deadline."""
    culprit = Rank(lambda: time.sleep(30))
    pid = culprit.process.pid or 0
    numbers = {"a": (1.0, 0), "c": (3.0, signal.SIGKILL), "b": (2.0, signal.SIGTERM)}
    write(path, *(FileTimerRequest(pid, scope, *numbers[scope]).to_line() for scope in numbers))
    server.run_once()
    assert culprit.end()[0] == -signal.SIGTERM
    assert [request.scope_id for name, request in events if name == "timer expired"] == ["a", "b", "c"]
    assert [request.scope_id for name, request in events if name == "kill worker process"] == ["b"]
    culprit.close()


@pytest.mark.parametrize("number", [0, -1, 4711])
def test_without_a_signal_the_timers_are_dropped(
    server: FileTimerServer, path: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With a log entry; 4711 is no signal to the kernel."""
    server.start()

    def body() -> None:
        with expires(0.05):
            time.sleep(0.1)
        note()
        time.sleep(0.1)

    healthy = rank(body, path, number)
    healthy.noted()
    assert known(server) == []
    assert healthy.end()[0] == 0
    assert "dropped" in caplog.text or "is not signalled" in caplog.text
    healthy.close()


def test_a_signal_that_is_ignored_is_sent_once(server: FileTimerServer, path: str, events: Events) -> None:
    """The timer is gone with it."""
    server.start()

    def body() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with expires(0.05):
            time.sleep(1)  # A server that wakes late kills nobody for half a second.

    healthy = rank(body, path, signal.SIGTERM)
    assert healthy.end()[0] == 0
    assert [name for name, _ in events].count("kill worker process") == 1
    healthy.close()


def test_the_clients_signal_is_sent(server: FileTimerServer, path: str) -> None:
    """SIGKILL if none is asked for."""
    assert FileTimerClient(path).signal == signal.SIGKILL
    server.start()
    culprit = rank(lambda: hang(0.05), path, signal.SIGTERM)
    assert culprit.end()[0] == -signal.SIGTERM
    culprit.close()


def test_a_request_is_one_line_and_nothing_stays_open(server: FileTimerServer, path: str) -> None:
    before = os.listdir("/proc/self/fd")
    client = FileTimerClient(path)
    client.acquire("scope", 5.0)
    client.release("scope")
    assert os.listdir("/proc/self/fd") == before
    lines = os.read(server._fifo.fileno(), 65536).split(b"\n")
    fields = [json.loads(line) for line in lines[:2]]
    assert (lines[2:], [field["expiration_time"] for field in fields]) == ([b""], [5.0, -1])
    assert list(fields[0])[:5] == ["version", "pid", "scope_id", "expiration_time", "signal"]


def test_no_reader_is_a_broken_pipe_after_a_second(path: str) -> None:
    """Whether there is no pipe, or nobody has it open."""
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(BrokenPipeError, match=UNAVAILABLE):
            FileTimerClient(path).acquire("scope", 0)
        assert 0.9 <= time.monotonic() - begun < 1 + late(LATE)
        if not os.path.exists(path):
            os.mkfifo(path)


def test_a_server_that_comes_within_the_second_gets_the_request(path: str) -> None:
    made: list[FileTimerServer] = []
    timer = threading.Timer(0.25, lambda: made.append(FileTimerServer(path, "run")))
    timer.start()
    FileTimerClient(path).acquire("scope", time.time() + 60)
    timer.join()
    made[0].run_once()
    assert [request.scope_id for request in known(made[0])] == ["scope"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_path_that_is_no_pipe_is_a_broken_pipe_at_once(path: str, kind: str) -> None:
    """And nothing is written to it."""
    if kind == "file":
        Path(path).write_text("mine")
    else:
        os.mkdir(path)
    begun = time.monotonic()
    with pytest.raises(BrokenPipeError, match=UNAVAILABLE):
        FileTimerClient(path).acquire("scope", 0)
    assert time.monotonic() - begun < late(0.9)
    assert kind == "directory" or Path(path).read_text() == "mine"


def test_a_pipe_that_was_removed_is_a_broken_pipe(server: FileTimerServer, path: str) -> None:
    """And the server stops cleanly."""
    server.start()
    os.unlink(path)
    with pytest.raises(BrokenPipeError, match=UNAVAILABLE):
        FileTimerClient(path).acquire("scope", 0)
    server.stop()
    assert not os.path.exists(path)


def test_a_scope_that_is_too_long_is_refused(server: FileTimerServer, path: str) -> None:
    """With the limit and the request; nothing is written."""
    with pytest.raises(RuntimeError, match=f"{select.PIPE_BUF} bytes.*FileTimerRequest.*xxx"):
        FileTimerClient(path).acquire("x" * 4090, time.time())
    assert server._fifo.size() == 0


def test_the_newline_counts(server: FileTimerServer, path: str) -> None:
    """A line of exactly the limit is sent, one of a byte more is not; and the release fits if it did."""
    client = FileTimerClient(path)
    empty = FileTimerRequest(os.getpid(), "", time.time() + 60.5, client.signal)
    scope = "x" * (select.PIPE_BUF - len(empty.to_json()) - 1)
    client.acquire(scope, empty.expiration_time)
    (request,) = server._fifo.get(1, 0)
    server.register_timers([request])
    assert known(server) == [request]
    with pytest.raises(RuntimeError):
        client.acquire(scope + "x", empty.expiration_time)
    client.release(scope)
    server.run_once()
    assert known(server) == []


def test_ten_processes_with_ten_nested_timers(server: FileTimerServer, path: str) -> None:
    """200 requests, in whatever order."""
    server.start()
    counts: list[int] = []
    original = server.register_timers
    server.register_timers = lambda found: (counts.append(len(found)), original(found))[1]  # type: ignore

    def body(levels: int = 10) -> None:
        with expires(60, str(levels)):
            if levels > 1:
                body(levels - 1)

    ranks = [rank(body, path) for _ in range(10)]
    assert [rank.end()[0] for rank in ranks] == [0] * 10
    eventually(lambda: sum(counts) == 200)
    assert known(server) == []
    for each in ranks:
        each.close()


def test_a_kill_is_logged_before(
    server: FileTimerServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.start()
    culprit = rank(lambda: hang(0.05, "exchange"), path)
    culprit.end()
    assert f"worker {culprit.process.pid} did not leave ['exchange'] in time" in caplog.text
    culprit.close()
