"""The fault table, over every channel: L is the queue, F the named pipe, P the plugin's own.

After each test the rig verifies that a bystander lived through it, that the next culprit is killed in time, and
that nothing is left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from machine import late

from pytest_elastic.processes import identify
from pytest_elastic.timer import FileTimerClient, FileTimerServer, LocalTimerClient, LocalTimerServer, expires
from pytest_elastic.timer import _requests as api
from pytest_elastic.timer._rank_timers import PipeTimerClient, TimerTable, open_channel
from pytest_elastic.timer._requests import Origin

from .rigs import LATE, LocalRig, MakeRig, PipeRig, Rank, Rig, Rounds, assert_killed, eventually, hang, note


def test_a_stranger_with_a_used_pid_lives(rig: Rig) -> None:
    """It answers with another start time than the process that acquired."""
    stranger = Rank(lambda: time.sleep(30))
    process = identify(stranger.process.pid or 0)
    assert process is not None
    rig.send(process.pid, time.time(), Origin(process.started - 1, 1, time.monotonic()))
    assert_killed(rig.start(lambda: hang(0.1)), 0.1)
    assert stranger.alive()
    stranger.close()


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of another user's process."""
    if os.getuid() != 0:
        pytest.skip("only root can start another user's process")
    with subprocess.Popen(["sleep", "30"], user=65534) as process:
        yield process.pid
        assert process.poll() is None
        process.kill()


@pytest.mark.parametrize("name", ["L", "F"])
def test_a_forged_request_is_dropped_and_logged(
    make_rig: MakeRig, name: str, stranger: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Process groups, init, nobody, and another user's process."""
    rig = make_rig(name)
    for pid in (0, 1, -3, 4_000_000, 1 << 70, stranger):
        rig.send(pid, time.time())
    eventually(lambda: sum("is not signalled" in record.message for record in caplog.records) == 6)
    eventually(lambda: rig.timers() == 1)  # Dropped together, after the last one was told of.


@pytest.mark.parametrize("name", ["L", "F"])
def test_a_forged_origin_is_dropped(make_rig: MakeRig, name: str) -> None:
    """Numbers that look like a client's, for a process that is none."""
    rig = make_rig(name)
    for pid in (0, 1, -3, 4_000_000, 1 << 70):
        rig.send(pid, time.time(), Origin(1, 1, 0.0))
    assert_killed(rig.start(lambda: hang(0.1)), 0.1)
    assert rig.timers() == 1


@pytest.mark.parametrize(
    "data",
    [
        b"text\n",
        b'{"version": 1, "pid": 12',
        b'{"version": 2, "pid": 1, "scope_id": "a", "expiration_time": 0, "signal": 9}\n',
        b'{"version": 1, "pid": "1", "scope_id": "a", "expiration_time": 0, "signal": 9}\n',
        b'{"version": 1, "pid": 2, "scope_id": 3, "expiration_time": NaN, "signal": 9}\n',
        b"[" * 4000 + b"\n",
        b"\0" * 200,
    ],
    ids=["text", "half", "version", "types", "nan", "deep", "nul"],
)
def test_garbage_is_skipped(rig: Rig, data: bytes) -> None:
    """The requests around it count."""
    rig.garbage(data)
    assert_killed(rig.start(lambda: hang(0.1)), 0.1)


@pytest.mark.parametrize("name", ["L", "F"])
def test_a_server_that_starts_late_enforces_what_was_acquired(make_rig: MakeRig, name: str) -> None:
    """What has expired by then is killed at once."""
    rig = make_rig(name)
    rig.server.stop()  # type: ignore[attr-defined]
    rank = rig.start(lambda: hang(0.2))
    begun = rank.noted()
    time.sleep(max(0.0, begun + 0.5 - time.monotonic()))
    assert rank.alive()
    started = time.monotonic()
    rig.server.start()  # type: ignore[attr-defined]
    code, seen = rank.end()
    assert code == -signal.SIGKILL
    # L sent it long ago; F could acquire only when the server made its pipe again.
    assert seen < started + 0.3 + late(LATE)


@pytest.mark.parametrize("name", ["L", "F"])
def test_nobody_is_killed_once_the_server_has_stopped(make_rig: MakeRig, name: str) -> None:
    """A new start enforces again."""
    rig = make_rig(name)

    def body() -> None:
        with expires(0.3):
            note()
            time.sleep(0.6)

    rank = rig.start(body)
    rank.noted()
    eventually(lambda: rig.timers() == 2)
    rig.server.stop()  # type: ignore[attr-defined]
    assert rank.end()[0] == 0
    rig.server.start()  # type: ignore[attr-defined]


SERVER = """
import sys, time
from pytest_elastic.timer import FileTimerServer
server = FileTimerServer(sys.argv[1], "test")
server.start()
print(flush=True)
time.sleep(60)
"""


@contextmanager
def server_process(path: str) -> Iterator[subprocess.Popen[str]]:
    """A server that can be killed."""
    with subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_f_a_client_is_told_when_the_server_was_killed(
    tmp_path: os.PathLike[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`acquire` raises within a second; `release` only warns."""
    path = os.path.join(tmp_path, "timer.fifo")
    client = FileTimerClient(path)
    with server_process(path) as process:
        with expires(60, client=client):
            process.kill()
            process.wait()
        assert "could not be released" in caplog.text
        begun = time.monotonic()
        with pytest.raises(BrokenPipeError):
            client.acquire("a", time.time())
        assert time.monotonic() - begun < 1 + late(LATE)


def test_p_a_client_is_told_when_the_table_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and `release` only warns."""
    ours, theirs = open_channel()
    client = PipeTimerClient(theirs)
    with expires(60, client=client):
        os.close(ours)
    assert "could not be released" in caplog.text
    with pytest.raises(BrokenPipeError):
        client.acquire("a", time.time())
    os.close(theirs)


@pytest.mark.parametrize("name", ["L", "F"])
def test_a_long_interval_delays_neither_a_kill_nor_the_stop(make_rig: MakeRig, name: str) -> None:
    """The rig's interval is 60 s."""
    rig = make_rig(name)
    assert_killed(rig.start(lambda: hang(0.2)), 0.2)
    begun = time.monotonic()
    rig.server.stop()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < late(0.5)
    rig.server.start()  # type: ignore[attr-defined]


def work() -> None:
    """In a rank: acquire and release for ever."""
    note()
    while True:
        with expires(60):
            pass


def test_a_rank_killed_at_any_moment_hinders_nobody(make_rig: MakeRig, rounds: Rounds) -> None:
    """Kills in a loop of acquire and release, beside a rank that works on."""
    rig = make_rig("P")
    worker = rig.start(work)
    worker.noted()
    for _ in range(rounds(15, 200)):
        rank = rig.start(work)
        rank.noted()
        time.sleep(random.uniform(0, 0.002))
        rank.process.kill()
        assert rank.end()[0] == -signal.SIGKILL
        rank.close()
    assert worker.alive()
    eventually(lambda: rig.timers() <= 2)
    worker.process.kill()
    worker.end()


def test_a_rank_killed_inside_put_locks_the_queue_for_all() -> None:
    """The hazard of `LocalTimer`, as its docstring says."""
    rig = LocalRig()
    rig.open()

    def killed_inside_put() -> None:
        rig.queue._wlock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    def culprit() -> None:
        note()
        LocalTimerClient(rig.queue).acquire("a", time.time() + 0.1)
        time.sleep(30)

    first = Rank(killed_inside_put)
    assert first.end()[0] == -signal.SIGKILL
    second = Rank(culprit)
    second.noted()
    second.end(0.5)
    assert second.alive()
    first.close()
    second.close()
    rig.finish()


def test_f_a_full_pipe_is_waited_for_a_second(tmp_path: os.PathLike[str]) -> None:
    """Nobody reads, as if the server were stopped."""
    path = os.path.join(tmp_path, "timer.fifo")
    server = FileTimerServer(path, "test")
    _fill(FileTimerClient(path))
    server.stop()


def test_p_a_full_channel_is_waited_for_a_second() -> None:
    """The rank is not blocked for longer."""
    ours, theirs = open_channel()
    _fill(PipeTimerClient(theirs))
    os.close(ours)
    os.close(theirs)


def test_a_pipe_that_was_full_takes_the_request_once_it_is_read(tmp_path: os.PathLike[str]) -> None:
    """The client is not told that nobody reads."""
    path = os.path.join(tmp_path, "timer.fifo")
    server = FileTimerServer(path, "test")
    _fill_and_read(FileTimerClient(path), server._fifo.fileno(), 1 << 16)
    server.stop()


def test_a_channel_that_was_full_takes_the_request_once_it_is_read() -> None:
    ours, theirs = open_channel()
    os.set_blocking(ours, False)
    _fill_and_read(PipeTimerClient(theirs), ours, 4096)
    os.close(ours)
    os.close(theirs)


def _fill_and_read(client: api.TimerClient, descriptor: int, size: int) -> None:
    """Send more than the channel holds, while somebody begins to read it after 0.2 s."""
    done = threading.Event()

    def read() -> None:
        time.sleep(0.2)
        while not done.wait(0.001):
            with suppress(BlockingIOError):
                while True:
                    os.read(descriptor, size)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1000):
            client.acquire(str(number), time.time() + 60)
    finally:
        done.set()
        reader.join()


def _fill(client: api.TimerClient) -> None:
    begun = 0.0
    with pytest.raises(BrokenPipeError):
        for number in range(10_000):
            begun = time.monotonic()
            client.acquire(str(number), time.time() + 60)
    assert time.monotonic() - begun < 1 + late(LATE)


def test_the_first_to_expire_comes_first(make_rig: MakeRig) -> None:
    """Two timers of one group, 10 ms apart: the first one's rank is the cause."""
    rig = make_rig("P")
    assert isinstance(rig, PipeRig)
    deadlines = []
    with rig._lock:
        table: TimerTable = rig.table
        for rank, span in ((2, 0.02), (1, 0.01)):
            ours, theirs = open_channel()
            table.attach(rank, ours)
            client = PipeTimerClient(theirs)
            client.acquire("exchange", time.time() + span)
            table.read(rank)
            os.close(theirs)
            deadlines.append(rank)
        time.sleep(0.05)
        found = [expiry.rank for expiry in table.expired()]
        for rank in (1, 2):
            table.detach(rank)
    assert found == [1, 2]


def test_a_stopped_server_leaves_no_thread() -> None:
    """Whatever was armed."""
    rig = LocalRig()
    rig.open()
    assert isinstance(rig.server, LocalTimerServer)
    rig.server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "LocalTimerServer"]
    rig.finish()
