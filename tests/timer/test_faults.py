"""The fault table, over every channel: L is the queue, F the named pipe, P the plugin's own.

After each test the rig verifies that a bystander lived through it, that the next culprit is killed in time, and
that nothing is left.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_elastic.timer import FileTimerClient, FileTimerServer, LocalTimerClient, LocalTimerServer, expires
from pytest_elastic.timer import _api as api
from pytest_elastic.timer._api import Origin
from pytest_elastic.timer._channel import PipeTimerClient, TimerTable, open_channel
from pytest_elastic.timer._process import identify

from .conftest import LATE, LocalRig, PipeRig, Rank, Rig, assert_killed, deadlock, eventually, hang, note

MakeRig = Callable[[str], Rig]


def test_tf1_a_rank_that_sleeps_too_long_is_killed_in_time(rig: Rig) -> None:
    """T24: and not before."""
    assert_killed(rig.start(lambda: hang(0.3)), 0.3)


def test_tf2_a_rank_that_holds_the_interpreters_lock_is_killed_in_time(rig: Rig) -> None:
    """T50: what was acquired is with the kernel when `acquire` returns."""

    def body() -> None:
        note()
        with expires(0.3):
            if rig.name == "L":  # T40: the queue's own thread must have run once.
                time.sleep(0.05)
            deadlock()

    assert_killed(rig.start(body), 0.3)


def test_tf3_a_stopped_rank_is_killed_in_time(rig: Rig) -> None:
    """T27."""

    def body() -> None:
        note()
        with expires(0.3):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGSTOP)

    assert_killed(rig.start(body), 0.3)


def test_tf4_a_rank_that_ignores_every_signal_is_killed_in_time(rig: Rig) -> None:
    """T28: it is SIGKILL."""

    def body() -> None:
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        hang(0.3)

    assert_killed(rig.start(body), 0.3)


def test_tf5_a_rank_that_releases_just_in_time_lives(rig: Rig) -> None:
    """T5: who released 1 ms before the deadline is not killed; who was kept from it by the machine may be."""

    def body() -> None:
        for _ in range(50):
            note()
            until = time.monotonic() + 0.01
            with expires(0.01):
                while time.monotonic() < until - 0.001:
                    pass
            if time.monotonic() >= until:
                os._exit(7)
            note()
            time.sleep(0.003)

    rank = rig.start(body)
    code, _ = rank.end()
    in_a_block = len(rank.notes()) % 2 == 1
    assert code == 0 or in_a_block
    # A late rank died while it used its channel: the queue may be locked for good (T40).
    rig.spoiled = rig.name == "L" and code != 0


def test_tf6_a_release_behind_many_requests_counts(rig: Rig) -> None:
    """T19: all of them are sent before the server decides, and after it last read."""
    many = {"L": 500, "F": 250, "P": 150}[rig.name]  # The last two are what a channel holds.
    waiting, go = os.pipe()

    def body() -> None:
        with expires(0.3, "late"):
            note()
            os.read(waiting, 1)
            assert api._client is not None
            for number in range(many):
                api._client.acquire(str(number), time.time() + 60)
        note()
        time.sleep(0.5)
        os._exit(0)

    rank = rig.start(body)
    armed = rank.noted()
    with rig.undecided():
        os.write(go, b"x")
        released = rank.noted()
        if released > armed + 0.3:
            pytest.skip("the machine kept the rank from releasing in time")
        time.sleep(max(0.0, armed + 0.35 - time.monotonic()))
    assert rank.end()[0] == 0
    os.close(waiting)
    os.close(go)


def test_tf7_an_exception_in_the_block_disarms(rig: Rig) -> None:
    """T11."""

    def body() -> None:
        with pytest.raises(KeyError):
            with expires(0.3):
                raise KeyError
        time.sleep(0.5)

    assert rig.start(body).end()[0] == 0


def test_tf8_the_shorter_outer_timer_kills(rig: Rig) -> None:
    """T16: blocks on different lines are different timers, and the earliest deadline kills."""

    def body() -> None:
        note()
        with expires(0.3):
            with expires(5):
                time.sleep(30)

    assert_killed(rig.start(body), 0.3)


def test_tf9_the_outer_timer_stays_armed_when_the_inner_is_released(rig: Rig) -> None:
    """T10, T16."""

    def body() -> None:
        note()
        with expires(0.3):
            with expires(5):
                pass
            time.sleep(30)

    assert_killed(rig.start(body), 0.3)


def test_tf10_only_the_last_call_of_a_recursion_counts(rig: Rig) -> None:
    """T15."""

    def recurse(levels: int) -> None:
        with expires(0.6):
            time.sleep(0.2)
            if levels > 1:
                recurse(levels - 1)

    def body() -> None:
        recurse(4)
        time.sleep(0.1)

    assert rig.start(body).end()[0] == 0


def test_tf11_threads_on_one_line_have_timers_of_their_own(rig: Rig) -> None:
    """T17."""

    def body() -> None:
        entered = threading.Event()

        def block(seconds: float) -> None:
            with expires(0.4):
                entered.set()
                time.sleep(seconds)

        note()
        threading.Thread(target=block, args=(30,), daemon=True).start()
        entered.wait()
        block(0.05)
        time.sleep(30)

    assert_killed(rig.start(body), 0.4)


def test_tf12_a_rank_that_exits_inside_its_block_takes_the_timer_along(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """T20."""
    caplog.set_level(logging.INFO)

    def body() -> None:
        with expires(0.3):
            time.sleep(0.1)
            os._exit(0)

    assert rig.start(body).end()[0] == 0
    eventually(lambda: rig.timers() == 1)  # The bystander's.
    time.sleep(0.3)
    assert rig.killed(caplog) == []


def test_tf13_a_rank_that_is_killed_from_outside_is_not_signalled_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """T20, T21."""
    caplog.set_level(logging.INFO)
    rank = rig.start(lambda: hang(0.3))
    rank.noted()
    eventually(lambda: rig.timers() == 2)
    rank.process.kill()
    rank.end()
    assert rig.timers() == 1
    time.sleep(0.4)
    assert rig.killed(caplog) == []


def test_tf14_a_stranger_with_a_used_pid_lives(rig: Rig) -> None:
    """T29: it answers with another start time than the process that acquired."""
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
def test_tf15_a_forged_request_is_dropped_and_logged(
    make_rig: MakeRig, name: str, stranger: int, caplog: pytest.LogCaptureFixture
) -> None:
    """T29: process groups, init, nobody, and another user's process."""
    rig = make_rig(name)
    for pid in (0, 1, -3, 4_000_000, 1 << 70, stranger):
        rig.send(pid, time.time())
    eventually(lambda: sum("is not signalled" in record.message for record in caplog.records) == 6)
    assert rig.timers() == 1


@pytest.mark.parametrize("name", ["L", "F"])
def test_tf15_a_forged_origin_is_dropped(make_rig: MakeRig, name: str) -> None:
    """T29: numbers that look like a client's, for a process that is none."""
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
def test_tf16_garbage_is_skipped(rig: Rig, data: bytes) -> None:
    """T36, T49: the requests around it count."""
    rig.garbage(data)
    assert_killed(rig.start(lambda: hang(0.1)), 0.1)


@pytest.mark.parametrize("name", ["L", "F"])
def test_tf17_a_server_that_starts_late_enforces_what_was_acquired(make_rig: MakeRig, name: str) -> None:
    """T26: what has expired by then is killed at once."""
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
    assert seen < started + 0.3 + LATE


@pytest.mark.parametrize("name", ["L", "F"])
def test_tf18_nobody_is_killed_once_the_server_has_stopped(make_rig: MakeRig, name: str) -> None:
    """T34; T35: a new start enforces again."""
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


def test_tf19_f_a_client_is_told_when_the_server_was_killed(
    tmp_path: os.PathLike[str], caplog: pytest.LogCaptureFixture
) -> None:
    """T47: `acquire` raises within a second; T11: `release` only warns."""
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
        assert time.monotonic() - begun < 1 + LATE


def test_tf19_p_a_client_is_told_when_the_table_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and `release` only warns."""
    ours, theirs = open_channel()
    client = PipeTimerClient(theirs)
    with expires(60, client=client):
        os.close(ours)
    assert "could not be released" in caplog.text
    with pytest.raises(BrokenPipeError):
        client.acquire("a", time.time())
    os.close(theirs)


@pytest.mark.parametrize("step", [3600, -3600])
def test_tf20_a_step_of_the_clock_kills_nobody_early_and_spares_nobody(
    rig: Rig, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T22."""
    real = time.time

    def culprit() -> None:
        note()
        with expires(0.4):
            time.time = lambda: real() + step  # type: ignore[assignment]
            time.sleep(30)

    def healthy() -> None:
        with expires(20):
            time.time = lambda: real() + step  # type: ignore[assignment]
            time.sleep(0.5)

    ranks = [rig.start(culprit), rig.start(healthy)]
    eventually(lambda: rig.timers() == 3)
    monkeypatch.setattr(time, "time", lambda: real() + step)
    assert_killed(ranks[0], 0.4)
    assert ranks[1].end()[0] == 0


def test_tf21_eight_ranks_expire_at_once(rig: Rig) -> None:
    """T16."""
    ranks = [rig.start(lambda: hang(0.5)) for _ in range(8)]
    for rank in ranks:
        begun = rank.noted()
        code, seen = rank.end()
        assert code == -signal.SIGKILL
        assert seen - begun >= 0.5


@pytest.mark.parametrize("name", ["L", "F"])
def test_tf22_a_long_interval_delays_neither_a_kill_nor_the_stop(make_rig: MakeRig, name: str) -> None:
    """T24, T34: the rig's interval is 60 s."""
    rig = make_rig(name)
    assert_killed(rig.start(lambda: hang(0.2)), 0.2)
    begun = time.monotonic()
    rig.server.stop()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 0.5
    rig.server.start()  # type: ignore[attr-defined]


def work() -> None:
    """In a rank: acquire and release for ever."""
    note()
    while True:
        with expires(60):
            pass


def test_tf23_a_rank_killed_at_any_moment_hinders_nobody(make_rig: MakeRig) -> None:
    """T50: 200 kills in a loop of acquire and release, beside a rank that works on."""
    rig = make_rig("P")
    worker = rig.start(work)
    worker.noted()
    for _ in range(200):
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


def test_tf24_a_rank_killed_inside_put_locks_the_queue_for_all() -> None:
    """T40, and the reason for T50: the hazard of `LocalTimer`, as its docstring says."""
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


def test_tf29_only_the_rank_is_killed_not_its_fork(rig: Rig) -> None:
    """T28; and a fork that leaves the block does not disarm the rank's timer."""
    read, write = os.pipe()

    def body() -> None:
        note()
        with expires(0.3):
            if os.fork() == 0:
                os.write(write, b"%10d" % os.getpid())
            else:
                time.sleep(30)
        time.sleep(30)

    rank = rig.start(body)
    fork = int(os.read(read, 10))
    assert_killed(rank, 0.3)
    process = identify(fork)
    assert process is not None
    assert not process.ended()
    process.signal(signal.SIGKILL)
    os.close(read)
    os.close(write)


def test_tf33_f_a_full_pipe_is_waited_for_a_second(tmp_path: os.PathLike[str]) -> None:
    """T46: nobody reads, as if the server were stopped."""
    path = os.path.join(tmp_path, "timer.fifo")
    server = FileTimerServer(path, "test")
    _fill(FileTimerClient(path))
    server.stop()


def test_tf33_p_a_full_channel_is_waited_for_a_second() -> None:
    """T50: the rank is not blocked for longer."""
    ours, theirs = open_channel()
    _fill(PipeTimerClient(theirs))
    os.close(ours)
    os.close(theirs)


def _fill(client: api.TimerClient) -> None:
    begun = 0.0
    with pytest.raises(BrokenPipeError):
        for number in range(10_000):
            begun = time.monotonic()
            client.acquire(str(number), time.time() + 60)
    assert time.monotonic() - begun < 1 + LATE


def test_tf34_under_load_the_culprit_is_killed_in_time_and_nobody_else(rig: Rig) -> None:
    """Four ranks acquire and release all the time."""

    def steady() -> None:
        until = time.monotonic() + 0.6
        note()
        while time.monotonic() < until:
            with expires(60):
                time.sleep(0.001)

    ranks = [rig.start(steady) for _ in range(4)]
    for rank in ranks:
        rank.noted()
    assert_killed(rig.start(lambda: hang(0.1)), 0.1)
    assert [rank.end()[0] for rank in ranks] == [0] * 4


def test_tf35_the_first_to_expire_comes_first(make_rig: MakeRig) -> None:
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


def test_t34_a_stopped_server_leaves_no_thread() -> None:
    """Whatever was armed."""
    rig = LocalRig()
    rig.open()
    assert isinstance(rig.server, LocalTimerServer)
    rig.server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "LocalTimerServer"]
    rig.finish()
