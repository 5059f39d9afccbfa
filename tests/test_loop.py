"""The loop: what it calls, and how other threads get at it."""

from __future__ import annotations

import gc
import math
import os
import selectors
import signal
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Iterator

import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.loop import Loop

LONG = 20.0
NEVER = Deadline.after(None)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """One that runs in its thread."""
    loop = Loop()
    loop.start()
    yield loop
    loop.close()


@pytest.fixture
def idle() -> Iterator[Loop]:
    """One that was not started."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of connected sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_call_runs_in_the_loops_thread(loop: Loop) -> None:
    assert loop.call(threading.current_thread) is not threading.current_thread()
    assert loop.call(lambda: loop.call(lambda: 7)) == 7


def test_a_call_raises_what_its_function_raises(loop: Loop) -> None:
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 // 0)
    assert loop.call(lambda: 1) == 1


def test_calls_come_after_what_was_posted_before(loop: Loop, idle: Loop) -> None:
    for one in (loop, idle):
        done: list[int] = []
        for number in range(3):
            assert one.post(lambda done=done, number=number: done.append(number))
        assert one.call(lambda done=done: list(done)) == [0, 1, 2]


def test_a_readable_descriptor_is_served_until_it_is_not_watched(loop: Loop, ends) -> None:
    ours, theirs = ends
    got: list[bytes] = []

    def read() -> None:
        got.append(ours.recv(9))
        loop.recheck()

    loop.call(lambda: loop.watch(ours.fileno(), read))
    theirs.send(b"1")
    assert loop.wait(lambda: got == [b"1"], Deadline.after(LONG))
    theirs.send(b"2")
    assert loop.wait(lambda: len(got) == 2, Deadline.after(LONG))
    loop.call(lambda: loop.unwatch(ours.fileno()))
    loop.call(lambda: loop.unwatch(ours.fileno()))
    theirs.send(b"3")
    assert not loop.wait(lambda: len(got) == 3, Deadline.after(0.05))


def test_a_member_is_driven_until_it_is_removed(idle: Loop, ends) -> None:
    """It says when it is due, and is told whether anything was ready."""
    steps: list[bool] = []

    class Member:
        at = math.inf

        def due(self) -> float:
            return self.at

        def step(self, idle: bool) -> None:
            steps.append(idle)

    member = Member()
    idle.add(member)
    idle.selector.register(ends[0], selectors.EVENT_READ, lambda: ends[0].recv(9))
    ends[1].send(b"!")
    idle.step(LONG)
    member.at = time.monotonic() + 0.01
    idle.step(LONG)
    idle.remove(member)
    idle.remove(member)
    idle.step()
    assert steps == [False, True]


def test_a_descriptor_that_is_forgotten_in_a_round_is_not_served_in_it(idle: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    calls: list[int] = []

    def act(number: int) -> None:
        calls.append(number)
        for ours, _ in pairs:
            idle.unwatch(ours.fileno())

    for number, (ours, theirs) in enumerate(pairs):
        idle.watch(ours.fileno(), lambda number=number: act(number))
        theirs.send(b"!")
    idle.step()
    assert len(calls) == 1
    for pair in pairs:
        for end in pair:
            end.close()


def test_an_alarm_goes_off_once_each_time_it_is_set(loop: Loop) -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(time.monotonic())
        loop.recheck()

    alarm = loop.call(lambda: loop.alarm(ring))
    began = time.monotonic()
    for times in (1, 2):
        loop.call(lambda: setattr(alarm, "at", time.monotonic() + 0.02))
        assert loop.wait(lambda times=times: len(rung) == times, Deadline.after(LONG))
    assert rung[0] >= began + 0.02
    assert not loop.wait(lambda: len(rung) == 3, Deadline.after(0.05))


def test_settled_is_after_all_that_had_arrived(idle: Loop, ends) -> None:
    done: list[str] = []
    idle.watch(ends[0].fileno(), lambda: done.append(ends[0].recv(9).decode()))
    settle = lambda: done.append("settled")  # noqa: E731 - it is asked for twice, and called once.
    idle.settle(settle)
    idle.settle(settle)
    ends[1].send(b"served")
    assert idle.has_arrived()
    idle.step(LONG)
    idle.step()
    assert done == ["served", "settled"]


def test_a_wait_whose_deadline_has_passed_is_one_look(loop: Loop, idle: Loop) -> None:
    for one in (loop, idle):
        looks: list[bool] = []
        assert one.wait(lambda looks=looks: looks.append(True), Deadline.after(0)) is None
        assert looks == [True]
        assert one.wait(lambda: "value", Deadline.after(0)) == "value"


def test_a_wait_ends_at_its_deadline(loop: Loop, idle: Loop) -> None:
    for one in (loop, idle):
        began = time.monotonic()
        assert one.wait(list, Deadline.after(0.05)) == []
        assert time.monotonic() - began >= 0.05


def test_a_wait_raises_what_its_predicate_raises(loop: Loop, idle: Loop) -> None:
    for one in (loop, idle):
        with pytest.raises(ZeroDivisionError):
            one.wait(lambda: 1 // 0, NEVER)
        assert one.call(lambda: 1) == 1


def test_a_signal_ends_a_wait_at_once(loop: Loop, idle: Loop) -> None:
    class Came(Exception):
        pass

    def handle(*_: object) -> None:
        raise Came

    before = signal.signal(signal.SIGALRM, handle)
    try:
        for one in (loop, idle):
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Came):
                one.wait(lambda: False, NEVER)
            assert time.monotonic() - began < LONG / 2
            assert one.call(lambda: 1) == 1
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signals_handler_may_close_it_while_the_main_thread_waits(loop: Loop, idle: Loop) -> None:
    for one in (loop, idle):
        before = signal.signal(signal.SIGALRM, lambda *_, one=one: one.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert one.wait(lambda: False, NEVER) is False
        finally:
            signal.signal(signal.SIGALRM, before)


def test_closing_does_what_was_posted_and_ends_the_waits(loop: Loop) -> None:
    done: list[str] = []
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(loop.wait(lambda: list(done), NEVER)))
    thread.start()
    while not loop.call(lambda: loop._waiters):
        time.sleep(0.001)
    loop.call(lambda: loop.post(lambda: done.append("last")))
    loop.close()
    loop.close()
    thread.join(LONG)
    assert found == [["last"]]
    assert not loop.post(lambda: done.append("late"))
    assert loop.call(threading.current_thread) is threading.current_thread()
    assert loop.wait(lambda: "here", NEVER) == "here"
    assert done == ["last"]


def test_its_own_thread_may_close_it_and_cannot_wait(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="own thread"):
        loop.call(lambda: loop.wait(lambda: True, NEVER))
    loop.call(loop.close)
    loop.close()


def test_calls_and_the_end_race(rounds) -> None:
    """Each call is done exactly once, by the loop or by its caller."""

    def call(loop: Loop, done: list[int]) -> None:
        for _ in range(20):
            loop.call(lambda: done.append(1))

    for _ in range(rounds(30, 500)):
        loop, done = Loop(), []
        loop.start()
        callers = [threading.Thread(target=call, args=(loop, done)) for _ in range(3)]
        for caller in callers:
            caller.start()
        loop.close()
        for caller in callers:
            caller.join(LONG)
            assert not caller.is_alive()
        assert len(done) == 60


def test_two_threads_may_wait_for_a_loop_that_was_not_started(idle: Loop, ends) -> None:
    got: list[bytes] = []
    idle.watch(ends[0].fileno(), lambda: got.append(ends[0].recv(1)))
    found: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda most=most: found.append(idle.wait(lambda: len(got) >= most, Deadline.after(LONG)))
        )
        for most in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for _ in range(2):
        ends[1].send(b"!")
        time.sleep(0.02)
    for thread in threads:
        thread.join(LONG)
    assert found == [True, True]


def test_a_fork_has_no_loop(loop: Loop, ends) -> None:
    """Its copy is over at once, and its descriptors are closed; the parent's goes on."""
    loop.call(lambda: loop.watch(ends[0].fileno(), lambda: None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # It has a thread besides.
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fresh = loop.call(threading.current_thread) is threading.current_thread()
            loop.unwatch(ends[0].fileno())
            loop.close()
            left = [one for one in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{one}")]
            code = (
                0
                if fresh and not any("eventpoll" in os.readlink(f"/proc/self/fd/{one}") for one in left)
                else 2
            )
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert loop.call(threading.current_thread) is not threading.current_thread()


def test_one_that_nobody_holds_is_collected() -> None:
    """Unless its thread runs; that ends soon after `stop`."""
    idle, loop = Loop(), Loop()
    loop.start()
    gone = [weakref.ref(idle), weakref.ref(loop)]
    loop.stop(lambda: None)
    del idle, loop
    deadline = time.monotonic() + LONG
    while any(one() for one in gone):
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_error_in_a_callback_ends_the_loop_and_its_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_type))
    loop = Loop()
    loop.start()
    loop.post(lambda: 1 // 0)
    assert loop.wait(lambda: False, NEVER) is False
    loop.close()
    assert raised == [ZeroDivisionError]
