"""A named pipe and what goes through it: each request is one JSON line, written atomically."""

from __future__ import annotations

import errno
import stat
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import json, os, select
from pytest_elastic.processes import wait_for
from pytest_elastic.timer._api import Origin, RequestQueue, TimerRequest, log


@dataclass(init=False)
class FileTimerRequest(TimerRequest):
    """A request that says which signal its expiry sends; none if that is not positive.

    Attributes:
        signal: number.
        version: of the format, 1.
    """

    signal: int
    version: int

    def __init__(
        self,
        worker_pid: int,
        scope_id: str,
        expiration_time: float,
        signal: int = 0,
        *,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(worker_pid, scope_id, expiration_time, origin=origin)
        self.signal, self.version = signal, 1

    @property
    def worker_pid(self) -> int:
        """The process id of the rank."""
        return int(self.worker_id)

    def to_json(self) -> str:
        """The request in one line, without its origin."""
        return json.dumps(self._fields())

    def to_line(self) -> bytes:
        """The request as it is sent, with its origin."""
        origin = {} if self.origin is None else self.origin._asdict()
        return json.dumps({**self._fields(), **origin}).encode("ascii") + b"\n"

    def _fields(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "pid": self.worker_id,
            "scope_id": self.scope_id,
            "expiration_time": self.expiration_time,
            "signal": self.signal,
        }


class Fifo(RequestQueue):
    """The server's end of a named pipe, which it makes and removes.

    Garbage is logged and skipped.  A request that follows half a line is found, because what begins it cannot
    occur inside a JSON text.

    Raises:
        FileExistsError: the path is something else than a named pipe.
        FileNotFoundError: its directory is missing.
    """

    _BEGIN = b'{"version"'

    def __init__(self, path: str) -> None:
        self._path, self._descriptor = path, -1
        self._rest, self._requests = b"", deque[TimerRequest]()
        self.open()

    def open(self) -> None:
        """Make the pipe, in place of one that is there; does nothing if it is open."""
        if self._descriptor >= 0:
            return
        with suppress(FileNotFoundError):
            if not stat.S_ISFIFO(os.lstat(self._path).st_mode):
                raise FileExistsError(errno.EEXIST, "not a named pipe", self._path)
            os.unlink(self._path)
        os.mkfifo(self._path, 0o600)
        # Open for writing too: otherwise the pipe would be at its end whenever no client has it open.
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._finalizer = weakref.finalize(self, _remove, self._path, self._descriptor)
        _opened.add(self)

    def close(self) -> None:
        """Remove the pipe; requests that were not read are lost."""
        self._descriptor = -1
        self._finalizer()

    def forget(self) -> None:
        """Close the descriptor that a fork inherited.  Otherwise clients would see a reader after its end."""
        if self._finalizer.detach() is not None:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        return self._descriptor

    def size(self) -> int:
        self._read()
        return len(self._requests)

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        deadline = Deadline.after(timeout)
        # What it does not have to read stays in the pipe, where the watchdog's poll sees it.
        while len(self._requests) < size:
            self._read()
            if deadline.passed():
                break
            wait_for(self._descriptor, select.POLLIN, deadline.remaining())
        return [self._requests.popleft() for _ in range(min(size, len(self._requests)))]

    def _read(self) -> None:
        """Take what is there now: a pipe holds no more than is asked for."""
        try:
            data = os.read(self._descriptor, 1 << 16) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-select.PIPE_BUF :]  # No request is longer.
        for line in lines:
            try:
                self._requests.append(_parse(line[max(0, line.rfind(self._BEGIN)) :]))
            except Exception as error:
                log.warning("a line is no timer request: %r (%s)", line, repr(error))


def _parse(line: bytes) -> FileTimerRequest:
    fields = json.loads(line)
    if fields["version"] != 1:
        raise ValueError("unknown version")
    if type(fields["pid"]) is not int or type(fields["signal"]) is not int:
        raise TypeError("pid and signal are numbers")
    origin = None
    if "thread" in fields:
        origin = Origin(int(fields["started"]), int(fields["thread"]), float(fields["deadline"]))
    return FileTimerRequest(
        fields["pid"], fields["scope_id"], fields["expiration_time"], fields["signal"], origin=origin
    )


def _remove(path: str, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(descriptor)):  # Or another server has replaced it.
            os.unlink(path)
    os.close(descriptor)


_opened: weakref.WeakSet[Fifo] = weakref.WeakSet()


def _forget_all() -> None:
    for fifo in list(_opened):
        fifo.forget()


os.register_at_fork(after_in_child=_forget_all)
