"""The fault table, over every channel: L is the queue, F the named pipe, P the plugin's own.

After each test the rig verifies that a bystander lived through it, that the next culprit is killed in time, and
that nothing is left.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import pytest

from pytest_elastic.clock import SystemClock
from pytest_elastic.processes import identify
from pytest_elastic.timer import _requests as api
from pytest_elastic.timer import expires

from .rigs import Rig, Rounds, assert_killed, deadlock, eventually, hang, note


def test_a_rank_that_sleeps_too_long_is_killed_in_time(rig: Rig) -> None:
    """And not before."""
    assert_killed(rig.start(lambda: hang(0.3)), 0.3)


def test_a_rank_that_holds_the_interpreters_lock_is_killed_in_time(rig: Rig) -> None:
    """What was acquired is with the kernel when `acquire` returns."""

    def body() -> None:
        note()
        with expires(0.3):
            if rig.name == "L":  # The queue's own thread must have run once.
                time.sleep(0.05)
            deadlock()

    assert_killed(rig.start(body), 0.3)


def test_a_stopped_rank_is_killed_in_time(rig: Rig) -> None:

    def body() -> None:
        note()
        with expires(0.3):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGSTOP)

    assert_killed(rig.start(body), 0.3)


def test_a_rank_that_ignores_every_signal_is_killed_in_time(rig: Rig) -> None:
    """It is SIGKILL."""

    def body() -> None:
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        hang(0.3)

    assert_killed(rig.start(body), 0.3)


def test_a_rank_that_releases_just_in_time_lives(rig: Rig, rounds: Rounds) -> None:
    """Who released 1 ms before the deadline is not killed; who was kept from it by the machine may be."""

    def body() -> None:
        for _ in range(rounds(25, 1000)):
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
    code, _ = rank.end(60)
    in_a_block = len(rank.notes()) % 2 == 1
    assert code == 0 or in_a_block
    # A late rank died while it used its channel: the queue may be locked for good.
    rig.spoiled = rig.name == "L" and code != 0


def test_a_release_behind_many_requests_counts(rig: Rig) -> None:
    """All of them are sent before the server decides, and after it last read."""
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


def test_an_exception_in_the_block_disarms(rig: Rig) -> None:

    def body() -> None:
        with pytest.raises(KeyError):
            with expires(0.3):
                raise KeyError
        time.sleep(0.5)

    assert rig.start(body).end()[0] == 0


def test_the_shorter_outer_timer_kills(rig: Rig) -> None:
    """Blocks on different lines are different timers, and the earliest deadline kills."""

    def body() -> None:
        note()
        with expires(0.3):
            with expires(5):
                time.sleep(30)

    assert_killed(rig.start(body), 0.3)


def test_the_outer_timer_stays_armed_when_the_inner_is_released(rig: Rig) -> None:

    def body() -> None:
        note()
        with expires(0.3):
            with expires(5):
                pass
            time.sleep(30)

    assert_killed(rig.start(body), 0.3)


def test_only_the_last_call_of_a_recursion_counts(rig: Rig) -> None:

    def recurse(levels: int) -> None:
        with expires(0.6):
            time.sleep(0.2)
            if levels > 1:
                recurse(levels - 1)

    def body() -> None:
        recurse(4)
        time.sleep(0.1)

    assert rig.start(body).end()[0] == 0


def test_threads_on_one_line_have_timers_of_their_own(rig: Rig) -> None:

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


def test_a_rank_that_exits_inside_its_block_takes_the_timer_along(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def body() -> None:
        with expires(0.3):
            time.sleep(0.1)
            os._exit(0)

    assert rig.start(body).end()[0] == 0
    eventually(lambda: rig.timers() == 1)  # The bystander's.
    time.sleep(0.3)
    assert rig.killed(caplog) == []


def test_a_rank_that_is_killed_from_outside_is_not_signalled_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rank = rig.start(lambda: hang(0.3))
    rank.noted()
    eventually(lambda: rig.timers() == 2)
    time.sleep(0.05)  # L: its thread has let go of the queue's lock by now.
    rank.process.kill()
    rank.end()
    assert rig.timers() == 1
    time.sleep(0.4)
    assert rig.killed(caplog) == []


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_kills_nobody_early_and_spares_nobody(
    rig: Rig, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(SystemClock, "time", staticmethod(lambda: real() + step))
    assert_killed(ranks[0], 0.4)
    assert ranks[1].end()[0] == 0


def test_eight_ranks_expire_at_once(rig: Rig) -> None:
    ranks = [rig.start(lambda: hang(0.5)) for _ in range(8)]
    for rank in ranks:
        begun = rank.noted()
        code, seen = rank.end()
        assert code == -signal.SIGKILL
        assert seen - begun >= 0.5


def test_only_the_rank_is_killed_not_its_fork(rig: Rig) -> None:
    """A fork that leaves the block does not disarm the rank's timer."""
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


def test_under_load_the_culprit_is_killed_in_time_and_nobody_else(rig: Rig) -> None:
    """Four ranks acquire and release all the time; the benchmark has 32."""

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
