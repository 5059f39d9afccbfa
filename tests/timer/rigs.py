"""Ranks that run under timers, over each of the three channels."""

from __future__ import annotations

import abc
import ctypes
import math
import multiprocessing
import os
import select
import signal
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from machine import late

from pytest_elastic.timer import (
    FileTimerClient,
    FileTimerRequest,
    FileTimerServer,
    LocalTimerClient,
    LocalTimerServer,
    TimerClient,
    TimerRequest,
    TimerServer,
    configure,
    expires,
)
from pytest_elastic.timer._rank_timers import _HEAD, MAGIC, Expiry, PipeTimerClient, TimerTable, open_channel
from pytest_elastic.timer._requests import Origin

LATE = 0.75
"""Seconds by which a kill may be late on an idle machine; see `late`.  The benchmark measures it."""

Body = Callable[[], object]
MakeRig = Callable[[str], "Rig"]
Rounds = Callable[[int, int], int]
Started = Callable[[TimerServer], TimerServer]
Events = list[tuple[str, Any]]


def eventually(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Fail if it does not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)


def deadlock() -> None:
    """Hang in C with the interpreter's lock held."""
    library = ctypes.PyDLL(None)
    read, _ = os.pipe()
    library.read(read, ctypes.create_string_buffer(1), 1)


class Rank:
    """A forked process that runs a body, and says when it did what."""

    def __init__(self, body: Body, prepare: Callable[[], object] = lambda: None) -> None:
        self._read, self._write = os.pipe()
        self._closed = False
        with warnings.catch_warnings():  # About forks of a process that has threads, from Python 3.12 on.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process = multiprocessing.get_context("fork").Process(
                target=self._main, args=(body, prepare)
            )
            self.process.start()
        # Not the process's sentinel: forks of the rank hold that open.
        assert self.process.pid is not None
        self._descriptor = os.pidfd_open(self.process.pid)

    def _main(self, body: Body, prepare: Callable[[], object]) -> None:
        prepare()
        global _rank
        _rank = self
        body()

    def note(self) -> None:
        """Write the present down, in the rank."""
        os.write(self._write, struct.pack("d", time.monotonic()))

    def noted(self, timeout: float = 10.0) -> float:
        """The next moment that the rank wrote down."""
        assert select.select([self._read], [], [], timeout)[0], "the rank wrote nothing"
        return float(struct.unpack("d", os.read(self._read, 8))[0])

    def notes(self) -> list[float]:
        """All that the rank wrote down and was not yet read."""
        found = []
        while select.select([self._read], [], [], 0)[0]:
            found.append(self.noted())
        return found

    def end(self, timeout: float = 10.0) -> tuple[int | None, float]:
        """Its exit code, and when it was seen."""
        ended = select.select([self._descriptor], [], [], timeout)[0]
        seen = time.monotonic()
        if ended:
            self.process.join()
        return self.process.exitcode, seen

    def alive(self) -> bool:
        return self.process.is_alive()

    def close(self) -> None:
        """End it if it lives; again is fine."""
        if self._closed:
            return
        self._closed = True
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)
        self.process.close()
        for descriptor in (self._read, self._write, self._descriptor):
            os.close(descriptor)


_rank: Rank


def note() -> None:
    """In a rank: write the present down for `Rank.noted`."""
    _rank.note()


class Rig(abc.ABC):
    """A timer server in this process, its ranks, and a bystander that must survive everything."""

    name = ""

    def __init__(self) -> None:
        self.ranks: list[Rank] = []
        self.spoiled = False
        self._done, self._finish = os.pipe()

    @abc.abstractmethod
    def client(self) -> TimerClient:
        """The rank's client, made in the rank."""

    @abc.abstractmethod
    def timers(self) -> int:
        """How many timers the server knows, of processes that live."""

    @abc.abstractmethod
    def send(self, pid: int, until: float, origin: Origin | None = None) -> None:
        """Have the server receive a request that no client made."""

    @abc.abstractmethod
    def garbage(self, data: bytes) -> None:
        """Have the server receive something that is no request."""

    @abc.abstractmethod
    def undecided(self) -> AbstractContextManager[object]:
        """Inside, the server reads and does not decide; it decides at the end."""

    def killed(self, caplog: pytest.LogCaptureFixture) -> list[object]:
        """Whom the server decided to kill."""
        return [record for record in caplog.records if "did not leave" in record.message]

    def locked(self) -> bool:
        """Whether a rank that was killed has left the channel locked for all others."""
        return False

    @abc.abstractmethod
    def open(self) -> None:
        """Start the server."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop it."""

    def start(self, body: Body) -> Rank:
        rank = Rank(body, lambda: configure(self.client()))
        self.ranks.append(rank)
        return rank

    def begin(self) -> None:
        self.open()
        self.bystander = self.start(self._stand_by)
        self.bystander.noted()

    def _stand_by(self) -> None:
        with expires(60):
            note()
            os.read(self._done, 1)

    def verify(self) -> None:
        """The server still kills the next culprit in time, and nobody but the culprits died."""
        if self.spoiled:
            return
        assert_killed(self.start(lambda: hang(0.1)), 0.1)
        if self.locked():
            return
        os.write(self._finish, b"x")
        assert self.bystander.end()[:1] == (0,)

    def finish(self) -> None:
        for rank in self.ranks:
            rank.close()
        self.close()
        os.close(self._done)
        os.close(self._finish)


def hang(after: float, scope: str | None = None) -> None:
    """In a rank: exceed a timer."""
    note()
    with expires(after, scope):
        time.sleep(30)


def assert_killed(rank: Rank, after: float) -> None:
    """The rank dies by SIGKILL `after` seconds from its note, not before and hardly after."""
    begun = rank.noted()
    code, seen = rank.end()
    assert code == -signal.SIGKILL, code
    assert after <= seen - begun < after + late(LATE), seen - begun


class LocalRig(Rig):
    name = "L"

    def open(self) -> None:
        self.queue: Any = multiprocessing.get_context("fork").Queue()
        self.server = LocalTimerServer(self.queue, max_interval=60)
        self.server.start()

    def locked(self) -> bool:
        # Its thread had sent the request, and was killed before it let go of the lock.
        if not self.queue._wlock.acquire(timeout=5):
            return True
        self.queue._wlock.release()
        return False

    def client(self) -> TimerClient:
        return LocalTimerClient(self.queue)

    def timers(self) -> int:
        return sum(map(len, self.server.get_expired_timers(time.time() + 1e6).values()))

    def send(self, pid: int, until: float, origin: Origin | None = None) -> None:
        self.queue.put(TimerRequest(pid, "forged", until, origin=origin))

    def garbage(self, data: bytes) -> None:
        self.queue.put(data)

    @contextmanager
    def undecided(self) -> Iterator[None]:
        go = threading.Event()
        self.server._now = lambda: time.monotonic() if go.wait(10) else 0.0  # type: ignore[method-assign]
        try:
            yield
        finally:
            go.set()
            del self.server._now

    def close(self) -> None:
        self.server.stop()
        self.queue.close()
        self.queue.join_thread()
        self.queue._writer.close()
        self.queue._reader.close()


class FileRig(Rig):
    name = "F"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = str(directory / "timer.fifo")

    def open(self) -> None:
        self.server = FileTimerServer(self.path, "test", max_interval=60)
        self.server.start()

    def client(self) -> TimerClient:
        return FileTimerClient(self.path)

    timers = LocalRig.timers  # type: ignore[assignment]
    undecided = LocalRig.undecided  # type: ignore[assignment]

    def send(self, pid: int, until: float, origin: Origin | None = None) -> None:
        request = FileTimerRequest(pid, "forged", until, signal.SIGKILL, origin=origin)
        self.garbage(request.to_line())

    def garbage(self, data: bytes) -> None:
        with open(self.path, "wb", buffering=0) as file:
            file.write(data)

    def close(self) -> None:
        self.server.stop()
        assert not os.path.exists(self.path)


class PipeRig(Rig):
    """The plugin's channel, with the loop that a plugin would have."""

    name = "P"

    def __init__(self) -> None:
        super().__init__()
        self.table = TimerTable()
        self.expiries: list[Expiry] = []
        self._lock = threading.Lock()
        self._theirs: dict[int, int] = {}

    def open(self) -> None:
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def start(self, body: Body) -> Rank:
        number = len(self.ranks)
        ours, self._theirs[number] = open_channel()
        with self._lock:
            rank = super().start(body)
            self.table.attach(number, ours)
        os.close(self._theirs.pop(number))
        os.write(self._wake, b"x")
        return rank

    def client(self) -> TimerClient:
        # A rank must not hold other ranks' channels, nor the table's ends.
        number, descriptor = self._theirs.popitem()
        self.table.close()
        return PipeTimerClient(descriptor)

    def _loop(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            with self._lock:
                channels = self.table.channels()
                pause = self.table.next_deadline() - time.monotonic()
            for descriptor in channels:
                poll.register(descriptor, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(max(0.0, min(pause, 60.0)) * 1000)]
            if self._woken in ready and b"q" in os.read(self._woken, 4096):
                return
            with self._lock:
                self._round([channels[descriptor] for descriptor in ready if descriptor in channels])

    def _round(self, readable: list[int]) -> None:
        for rank in readable:
            if not self.table.read(rank):
                self.table.detach(rank)
        for expiry in self.table.expired():
            self.expiries.append(expiry)
            self.ranks[expiry.rank].process.kill()

    def timers(self) -> int:
        with self._lock:
            return len(self.table._timers.expired(math.inf))

    def undecided(self) -> AbstractContextManager[object]:
        return self._lock

    def killed(self, caplog: pytest.LogCaptureFixture) -> list[object]:
        return list(self.expiries)

    def send(self, pid: int, until: float, origin: Origin | None = None) -> None:
        assert origin is not None
        with self._lock:
            packet = _HEAD.pack(MAGIC, origin.deadline, 0.0, pid, origin.started, origin.thread, 1, 0)
            self.table.feed(0, packet + b"forged")
        os.write(self._wake, b"x")

    def garbage(self, data: bytes) -> None:
        with self._lock:
            self.table.feed(0, data)

    def close(self) -> None:
        os.write(self._wake, b"q")
        self._thread.join(5)
        self.table.close()
        os.close(self._woken)
        os.close(self._wake)


def write(path: str, *lines: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(b"".join(lines))


def known(server: FileTimerServer) -> list[Any]:
    """All requests whose timers are armed."""
    return [request for found in server.get_expired_timers(math.inf).values() for request in found]
