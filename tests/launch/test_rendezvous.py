"""Ranks that share nothing with the launcher but a network: they connect by address, with a token."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.errors import DistNetworkError, StartError
from pytest_elastic.launch import Bye, Plan, RankGroup, Surroundings
from pytest_elastic.launch._rendezvous import CHANNEL, TIMERS, Place, connect
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import Ended, RankExited, RankStart, Started, Stop
from pytest_elastic.store import RemoteStore

LONG = 30.0
RANK = """
import pickle, sys
from pytest_elastic.launch import RankProcess

def obey(rank, order):
    rank.world.store.set(f"from {rank.rank}", order)
    rank.channel.send(rank.world.store.multi_get(["from 0", "from 1"]))

sys.exit(RankProcess(pickle.load(sys.stdin.buffer)).live(obey))
"""


class SubprocessLauncher:
    """Starts ranks by `subprocess`, which get nothing but their jobs; a thread is their guardian.

    Args:
        change: makes another job of a rank's, or none: then something else runs in its place.
    """

    def __init__(self, change: Callable[[RankStart], RankStart | None] = lambda start: start) -> None:
        self._change = change
        self._guardians: list[threading.Thread] = []

    def start_group(self, starts: list[RankStart]) -> Channel:
        control, theirs = Channel.pair()
        processes = {start.rank: self._start(start) for start in starts}
        self._guardians.append(threading.Thread(target=guard, args=(processes, Channel(theirs))))
        self._guardians[-1].start()
        return control

    def close(self) -> bool:
        for guardian in self._guardians:
            guardian.join(LONG)
        return True

    def _start(self, start: RankStart) -> subprocess.Popen[bytes]:
        assert not start.descriptors
        job = self._change(start)
        code = "import time; time.sleep(1000)" if job is None else RANK
        with open(start.stdout, "wb") as out, open(start.stderr, "wb") as err:
            environment = {**os.environ, **start.env, "PYTHONPATH": str(Path(__file__).parent)}
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment
            )
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(pickle.dumps(job))
        return process


def guard(processes: dict[int, subprocess.Popen[bytes]], control: Channel) -> None:
    """Tell of the ends of these processes, and obey."""
    control.send(Started({rank: process.pid for rank, process in processes.items()}))
    grace = Deadline.after(None)
    while processes:
        for rank, process in list(processes.items()):
            if (code := process.poll()) is not None:
                del processes[rank]
                control.send(RankExited(rank, code, time.monotonic()))
        for command, _ in control.receive():
            ranks = list(processes) if isinstance(command, Stop) else command.ranks
            grace = Deadline.after(command.grace) if isinstance(command, Stop) else grace
            for rank in set(ranks) & set(processes):
                processes[rank].send_signal(command.signum)
        if grace.passed() or control.closed:
            for process in processes.values():
                process.kill()
        time.sleep(0.005)
    try:
        control.send(Ended((), {}))
    except OSError:
        pass
    control.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RankGroup]]:
    """Start two ranks: `start(function)`, or with an `obey` of the rank's program; `change`, see the launcher."""
    groups: list[RankGroup] = []
    launchers: list[SubprocessLauncher] = []

    def begin(function: Any = None, **changes: Any) -> RankGroup:
        launchers.append(SubprocessLauncher(**{k: v for k, v in changes.items() if k == "change"}))
        limit = changes.get("start_timeout", 60.0)
        plan = Plan(2, tmp_path, host="127.0.0.1", start_timeout=limit)
        payload = None if function is None else (function, ())
        groups.append(RankGroup("far", launchers[-1], plan, payload))
        groups[-1].start()
        return groups[-1]

    yield begin
    for group in groups:
        group.close(timeout=1)
    for launcher in launchers:
        launcher.close()


def test_functions_run_on_ranks_and_return(start) -> None:
    """With a store, and its threads; the function and the values travel by channel."""

    def function(rank: int, world_size: int) -> list[int]:
        import threading

        from pytest_elastic.launch import current_world

        world = current_world()
        thread = threading.Thread(target=lambda: world.store.add("count", 1))
        thread.start()
        thread.join()
        return world.gather(rank * 10)

    group = start(function)
    result = group.wait(timeout=LONG)
    assert result is not None
    assert not result.failures, result
    assert group.values() == [[0, 10], [0, 10]]


class SlowWay:
    """A port that passes on to another one; what comes from ranks is late by so many seconds."""

    def __init__(self, address: str, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._there, self._seconds = (host, int(port)), seconds
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._threads:
            self._threads.pop().join(LONG)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._there)
            for ends, seconds in (((near, far), self._seconds), ((far, near), 0.0)):
                self._threads.append(threading.Thread(target=self._pass_on, args=(*ends, seconds)))
                self._threads[-1].start()

    def _pass_on(self, end: socket.socket, other: socket.socket, seconds: float) -> None:
        try:
            while data := end.recv(1 << 16):
                time.sleep(seconds)
                other.sendall(data)
            time.sleep(seconds)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if seconds:  # The launcher has nothing to say once its rank is gone.
            other.close()
            end.close()


def test_an_exit_that_is_known_before_the_last_words_waits_for_them(start) -> None:
    """As on a network, where the two come by different connections."""
    ways: list[SlowWay] = []

    def slowly(one: RankStart) -> RankStart:
        ways.append(SlowWay(one.job.place.address, 0.2))
        return replace(one, job=replace(one.job, place=replace(one.job.place, address=ways[-1].address)))

    group = start(lambda rank, world_size: rank, change=slowly)
    result = group.wait(timeout=LONG)
    assert result is not None
    assert not result.failures, result
    assert group.values() == [0, 1]
    group.close(timeout=1)
    for way in ways:
        way.close()


def test_orders_and_a_fresh_store(start) -> None:
    """Each order is answered; what the ranks wrote before is not in the new store."""
    group = start()
    group.order([0, 1], "first")
    answers = group.collect([0, 1], Deadline.after(LONG), lambda answer: False)
    assert answers.replies == {0: [b"first", b"first"], 1: [b"first", b"first"]}
    group.renew_store("second")
    answers = group.collect([0, 1], Deadline.after(LONG), lambda answer: False)
    assert answers.replies == {0: [b"second", b"second"], 1: [b"second", b"second"]}
    group.order([0, 1], Bye())
    assert group.wait_exits([0, 1], LONG) == []


def test_a_timer_ends_its_rank(start) -> None:
    """By the signal of whoever guards it, with its name and place."""

    def function(rank: int, world_size: int) -> None:
        import time

        from pytest_elastic.timer import expires

        with expires(after=0.5 if rank else 50, scope="exchange"):
            time.sleep(100 if rank else 0)

    result = start(function).wait(timeout=LONG)
    assert list(result.failures) == [1], result
    assert result.failures[1].exitcode == -signal.SIGKILL
    assert 'timer "exchange"' in result.failures[1].message


def test_a_hang_is_found(start) -> None:
    """The store knows whose request is whose."""

    def function(rank: int, world_size: int) -> None:
        from pytest_elastic.launch import current_world

        if rank:
            current_world().barrier("epoch", timeout=300)

    group = start(function)
    result = group.wait_alone(LONG)
    assert list(result.failures) == [1]
    found = group.known().diagnosis
    assert (found.verdict, found.ranks, found.doomed) == ("MissingRank", (0,), (1,))


def test_a_rank_that_never_connects_is_an_error_in_time(start) -> None:
    """The other one is stopped."""
    from machine import late  # Not a global of functions that go to ranks, which do not find it.

    began, limit = time.monotonic(), round(late(3))  # Rank 0 has to be ready in time.
    with pytest.raises(StartError, match=rf"not ready after {limit} s") as info:
        start(change=lambda one: one if one.rank == 0 else None, start_timeout=limit)
    assert info.value.ranks == [1]
    assert time.monotonic() - began < limit + LONG


def test_a_rank_with_another_token_is_refused_in_words(start) -> None:
    """They are the last words of its log."""

    def change(one: RankStart) -> RankStart:
        place = replace(one.job.place, token="0" * 32)
        return one if one.rank else replace(one, job=replace(one.job, place=place))

    with pytest.raises(StartError, match=r"refused rank 0: wrong token"):
        start(change=change)


@pytest.fixture
def place(start) -> Place:
    """Of a group whose ranks have connected."""
    places: list[Place] = []
    start(
        lambda rank, world_size: __import__("time").sleep(100),
        change=lambda one: places.append(one.job.place) or one,
    )
    return places[0]


def test_who_is_no_rank_is_refused_in_words(place: Place) -> None:
    """Those that are there already, or do not exist; and those who say something else."""
    with pytest.raises(DistNetworkError, match=r"refused rank 1: rank 1 is connected already"):
        connect(place.address, place.token, CHANNEL, 1)
    with pytest.raises(DistNetworkError, match=r"refused rank 2: there is no rank 2"):
        connect(place.address, place.token, TIMERS, 2)
    host, _, port = place.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=LONG) as end:
        end.sendall(b"GET / HTTP/1.1\r\n")
        assert b"no rank of pytest-elastic" in end.recv(1000)
    with socket.create_connection((host, int(port)), timeout=LONG) as end:
        end.sendall(b"pe")
    with pytest.raises(DistNetworkError, match="wrong token"):
        RemoteStore(place.store.address, "0" * 32).set("k", "1")


def test_nobody_is_there() -> None:
    """It is said where one was looked for."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(DistNetworkError, match=f"rank 0 finds no launcher at 127.0.0.1:{port}"):
        connect(f"127.0.0.1:{port}", "", CHANNEL, 0)


def test_ranks_that_start_elsewhere_cannot_have_this_process_streams(tmp_path: Path) -> None:
    """No descriptor gets there: their output is in files, and who asks for another is told."""
    plan = Plan(2, tmp_path, Surroundings(output="inherit"), host="127.0.0.1")
    with pytest.raises(ValueError, match="under another launcher write files"):
        RankGroup("far", SubprocessLauncher(), plan, None)


def test_rank_0_may_be_on_another_machine_than_the_launcher(tmp_path: Path) -> None:
    """Ranks are told its address, for stores and process groups of their own."""
    for plan, address in (
        (Plan(1, tmp_path), "127.0.0.1"),
        (Plan(1, tmp_path, host="10.0.0.1"), "10.0.0.1"),
        (Plan(1, tmp_path, host="10.0.0.1", master="10.0.0.2"), "10.0.0.2"),
    ):
        assert plan.environments(4000, {0: "error.json"})[0]["MASTER_ADDR"] == address
