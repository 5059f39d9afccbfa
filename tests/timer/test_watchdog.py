"""The watchdog, over queues and hooks of a user's own."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import weakref
from typing import Any

import pytest
from machine import late

from pytest_elastic.timer import RequestQueue, TimerRequest, TimerServer
from pytest_elastic.timer._watchdog import ProcessTimerServer

from .queues import SlowQueue, UserQueue, WakingQueue
from .rigs import Started, eventually


class UserServer(TimerServer):
    """Hooks as a user writes them: every request has expired, and outcomes are given by worker."""

    def __init__(self, request_queue: RequestQueue, max_interval: float = 60, **outcomes: Any) -> None:
        super().__init__(request_queue, max_interval)
        self.known: dict[Any, list[TimerRequest]] = {}
        self.cleared: list[set[Any]] = []
        self.reaped: list[Any] = []
        self.outcomes = outcomes
        self.quiet = threading.Event()

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        for request in timer_requests:
            if request.scope_id == "bad":
                raise ValueError("a bad request")
            self.known.setdefault(request.worker_id, []).append(request)

    def clear_timers(self, worker_ids: set[Any]) -> None:
        self.cleared.append(set(worker_ids))
        for worker in worker_ids:
            del self.known[worker]

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        if not self.known:
            self.quiet.set()
        return {
            worker: found
            for worker, requests in self.known.items()
            if (found := [request for request in requests if request.expiration_time <= deadline])
        }

    def _reap_worker(self, worker_id: Any) -> bool:
        self.reaped.append(worker_id)
        outcome = self.outcomes.get(worker_id, True)
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)


def watchdogs(name: str = "UserServer") -> list[threading.Thread]:
    """The watchdogs that run."""
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_a_users_queue_and_hooks_work(started: Started) -> None:
    """What comes later too."""
    requests = UserQueue(TimerRequest("a", "first", 0))
    server: Any = started(UserServer(requests))
    eventually(lambda: server.cleared == [{"a"}])
    requests.requests.put(TimerRequest("b", "second", 0))
    eventually(lambda: server.cleared == [{"a"}, {"b"}])


def test_a_queue_with_a_descriptor_wakes_the_server(started: Started) -> None:
    """Whatever the interval is; without one, the server would ask five times a second."""
    requests = WakingQueue()
    server: Any = started(UserServer(requests))
    for number in range(20):
        requests.put(TimerRequest(number, "scope", 0))
        eventually(lambda number=number: server.reaped[-1:] == [number], 1.0)


def test_outcomes_of_a_kill(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """An exception and `True` count as reaped, and `False` is tried again."""
    requests = UserQueue(*(TimerRequest(worker, "scope", 0) for worker in "abc"))
    server: Any = started(UserServer(requests, 0.01, a=RuntimeError("reaping failed"), c=False))
    eventually(lambda: server.reaped.count("c") > 2)
    server.stop()
    assert server.cleared == [{"a", "b"}]
    assert (server.reaped.count("a"), server.reaped.count("b")) == (1, 1)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "killing worker a failed" in errors[0].message
    assert all("worker c could not be killed" in record.message for record in errors[1:])


def test_a_kill_is_logged_before(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """Worker and scopes, at INFO."""
    caplog.set_level(logging.INFO)
    requests = UserQueue(*(TimerRequest("a", scope, 0) for scope in ("first", "second")))
    server: Any = started(UserServer(requests, a=RuntimeError("failed")))
    eventually(lambda: server.cleared)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "ERROR"]
    assert "worker a" in caplog.messages[0]
    assert "['first', 'second']" in caplog.messages[0]


def test_the_other_requests_of_a_bad_one_count(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """The hook that raised is given each by itself."""
    scopes = ("good", "bad", "good")
    requests = UserQueue(*(TimerRequest(number, scope, 0) for number, scope in enumerate(scopes)))
    server: Any = started(UserServer(requests))
    eventually(lambda: server.cleared)
    assert set().union(*server.cleared) == {0, 2}
    assert "a bad request" in caplog.text


@pytest.mark.parametrize("hook", ["get_expired_timers", "clear_timers"])
def test_the_watchdog_survives_a_hook_that_raises(
    started: Started, hook: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = UserServer(UserQueue(TimerRequest("a", "scope", 0)), 0.01)
    original, calls = getattr(server, hook), []

    def fails_once(argument: Any) -> Any:
        calls.append(argument)
        if len(calls) == 1:
            raise RuntimeError("hook failed")
        return original(argument)

    monkeypatch.setattr(server, hook, fails_once)
    started(server)
    eventually(lambda: server.cleared)
    assert "hook failed" in caplog.text


def test_the_watchdog_survives_a_queue_that_raises(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again after a while."""
    requests = UserQueue(TimerRequest("a", "scope", 0))
    size, failures = requests.size, [OSError("no size")]
    requests.size = lambda: size() if not failures else exec("raise failures.pop()", {"failures": failures})  # type: ignore
    server: Any = started(UserServer(requests, 0.01))
    eventually(lambda: server.cleared == [{"a"}])
    assert "no size" in caplog.text


def test_what_a_killed_rank_never_sent_is_waited_for_once() -> None:
    """An announced request that does not come delays the first kill, not each."""
    requests = SlowQueue(lost=1)
    server = UserServer(requests)
    assert [server._catch_up() for _ in range(3)] == [False] * 3
    assert requests.waits == 1
    requests.requests.append(TimerRequest("a", "scope", 0))
    assert server._catch_up()
    assert (requests.waits, list(server.known)) == (1, ["a"])


def test_starting_twice_is_once(started: Started) -> None:
    server = started(UserServer(UserQueue()))
    server.start()
    assert len(watchdogs()) == 1
    server.stop()
    assert not watchdogs()


@pytest.mark.parametrize("daemon", [True, False])
def test_the_thread_is_a_daemon_as_asked(started: Started, daemon: bool) -> None:
    started(ProcessTimerServer(UserQueue(), 60, daemon))
    assert [thread.daemon for thread in watchdogs("ProcessTimerServer")] == [daemon]


def test_stopping_twice_and_without_a_start_is_fine() -> None:
    server = UserServer(UserQueue())
    server.stop()
    server.start()
    server.stop()
    server.stop()


@pytest.mark.parametrize("kind", [UserQueue, WakingQueue])
def test_a_stop_does_not_wait_for_the_interval(started: Started, kind: type[UserQueue]) -> None:
    server = started(UserServer(kind(), 60))
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < late(0.5)
    assert not watchdogs()


def test_after_a_stop_nobody_is_killed_though_a_queue_holds_the_thread_up(started: Started) -> None:
    """A user's queue may not keep to its timeout."""
    held, requests = threading.Event(), UserQueue()
    requests.get = lambda size, timeout: [TimerRequest("a", "s", 0)] if held.wait(10) else []  # type: ignore
    server: Any = started(UserServer(requests))
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < late(0.75, below=10)  # The queue holds it for 10 s.
    held.set()
    eventually(lambda: not watchdogs())
    assert (server.reaped, list(server.known)) == ([], ["a"])


def test_after_a_stop_nobody_is_killed_though_a_hook_holds_the_thread_up(started: Started) -> None:
    """The others that had expired in the same round live."""
    held = threading.Event()
    server: Any = UserServer(UserQueue(*(TimerRequest(worker, "scope", 0) for worker in "ab")))
    reap = server._reap_worker
    server._reap_worker = lambda worker: reap(worker) and held.wait(10)
    started(server)
    eventually(lambda: server.reaped)
    server.stop()
    held.set()
    eventually(lambda: not watchdogs())
    assert len(server.reaped) == 1


def test_a_hook_may_stop_its_own_server(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    """From the watchdog's thread."""
    server: Any = UserServer(UserQueue(TimerRequest("a", "scope", 0)))
    server.clear_timers = lambda worker_ids: server.stop()
    started(server)
    eventually(lambda: not watchdogs())
    assert caplog.records == []


def test_a_start_after_a_stop_works_with_the_timers_known(started: Started) -> None:
    requests = UserQueue(TimerRequest("a", "scope", time.time() + 0.2))
    server: Any = started(UserServer(requests, 0.01))
    eventually(lambda: server.known)
    server.stop()
    time.sleep(0.25)
    assert server.reaped == []
    server.start()
    eventually(lambda: server.cleared == [{"a"}])


@pytest.mark.parametrize("interval", [0, -1, math.nan])
def test_an_interval_must_be_positive(interval: float) -> None:
    with pytest.raises(ValueError):
        UserServer(UserQueue(), interval)


@pytest.mark.parametrize("kind", [UserQueue, WakingQueue])
def test_a_collected_server_leaves_no_thread(kind: type[UserQueue]) -> None:
    """While its thread sleeps, too."""
    requests = kind()
    server = UserServer(requests, 60)
    server.start()
    gone = weakref.ref(server)
    time.sleep(0.02)
    del server
    gc.collect()
    eventually(lambda: not watchdogs())
    assert gone() is None
    if isinstance(requests, WakingQueue):
        requests.close()


def test_a_fork_may_start_its_copy_and_does_not_stop_the_original(started: Started) -> None:
    """The fork has no watchdog, whatever its memory says, and its own stop is its own."""
    server: Any = started(UserServer(WakingQueue()))
    pid = os.fork()
    if pid == 0:
        server.start()
        alive = len(watchdogs())
        server.stop()
        os._exit(alive)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert len(watchdogs()) == 1
