"""Timers over a named pipe: the pipe, the client that writes to it, and the server that reads.

Each request is one JSON line, written atomically.
"""

from __future__ import annotations

import errno
import logging
import stat
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.pristine import json, os, select, time
from pytest_elastic.pristine import signal as signals
from pytest_elastic.processes import identify, wait_for
from pytest_elastic.timer._requests import (
    RELEASE,
    Origin,
    RequestQueue,
    TimerClient,
    TimerRequest,
    log,
    made_here,
)
from pytest_elastic.timer._watchdog import ProcessTimerServer, Run

TRIES = 10
EVERY = 0.1
"""Seconds between two tries to reach the server."""

LONG = select.PIPE_BUF - 512
"""Bytes of a scope in JSON that leave room for all else in a line."""

LogEvent = Callable[[str, "FileTimerRequest | None"], None]


@dataclass(init=False)
class FileTimerRequest(TimerRequest):
    """A timer request with the signal that its expiry sends; none if that is not positive.

    >>> FileTimerRequest(4711, "exchange", 5.0, 9).to_json()
    '{"version": 1, "pid": 4711, "scope_id": "exchange", "expiration_time": 5.0, "signal": 9}'

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

    def to_json(self, **more: object) -> str:
        """The request as a JSON object in one line, without its origin; `more` are fields to be added."""
        fields = {
            "version": self.version,
            "pid": self.worker_id,
            "scope_id": self.scope_id,
            "expiration_time": self.expiration_time,
            "signal": self.signal,
        }
        return json.dumps({**fields, **more})

    def to_line(self) -> bytes:
        """The line that is sent: the request with its origin."""
        origin = {} if self.origin is None else self.origin._asdict()
        return self.to_json(**origin).encode("ascii") + b"\n"


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
        self._finalizer = weakref.finalize(self, remove_pipe, self._path, self._descriptor)
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
        self.read()
        return len(self._requests)

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        deadline = Deadline.after(timeout)
        # What it does not have to read stays in the pipe, where the watchdog's poll sees it.
        while len(self._requests) < size:
            self.read()
            if deadline.passed():
                break
            wait_for(self._descriptor, select.POLLIN, deadline.remaining())
        return [self._requests.popleft() for _ in range(min(size, len(self._requests)))]

    def read(self) -> None:
        """Take all that the pipe holds now; does not block."""
        try:
            data = os.read(self._descriptor, 1 << 16) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-select.PIPE_BUF :]  # No request is longer.
        for line in lines:
            try:
                self._requests.append(parse_request(line[max(0, line.rfind(self._BEGIN)) :]))
            except Exception as error:
                log.warning("a line is no timer request: %r (%s)", line, repr(error))


def parse_request(line: bytes) -> FileTimerRequest:
    """The request in one line of the pipe.

    Raises:
        Exception: it is none; of a type that depends on the garbage.
    """
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


def remove_pipe(path: str, descriptor: int) -> None:
    """Close a named pipe, and unlink it unless another server has replaced it."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            os.unlink(path)
    os.close(descriptor)


_opened: weakref.WeakSet[Fifo] = weakref.WeakSet()


def forget_all() -> None:
    """In a fork: close the pipes of the parent's servers."""
    for fifo in list(_opened):
        fifo.forget()


os.register_at_fork(after_in_child=forget_all)


class FileTimerClient(TimerClient):
    """Timer client that writes to the named pipe of a `FileTimerServer`.

    The server has the request when the call returns.  Both methods block for a second at most, while there is
    no server or its pipe is full.

    Args:
        file_path: of the pipe.
        signal: number of the signal that is sent to this process when a timer expires.

    Raises:
        BrokenPipeError: (when sending) nobody reads in time, or the path is no named pipe.
        RuntimeError: (when sending) the request has more than `select.PIPE_BUF` bytes.
    """

    def __init__(self, file_path: str, signal: int = signals.SIGKILL) -> None:
        self._path, self.signal = file_path, signal

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self._send(scope_id, expiration_time, self.signal)

    def release(self, scope_id: str) -> None:
        self._send(scope_id, RELEASE, 0)

    def _send(self, scope_id: str, expiration_time: float, number: int) -> None:
        # A longer one does without: it counts from its receipt, and for every thread.
        origin = made_here(expiration_time) if len(json.dumps(scope_id)) <= LONG else None
        request = FileTimerRequest(os.getpid(), scope_id, expiration_time, int(number), origin=origin)
        line = request.to_line()
        if len(line) > select.PIPE_BUF:
            raise RuntimeError(f"a request may have {select.PIPE_BUF} bytes, not {len(line)}: {request!r}")
        for left in reversed(range(TRIES)):
            if write_line(self._path, line):
                return
            time.sleep(EVERY if left else 0.0)
        raise unavailable()


def write_line(path: str, line: bytes) -> bool:
    """Write a request to a named pipe; `False` if there is no server that reads it.

    Raises:
        BrokenPipeError: the path is no named pipe, or the pipe stays full for a second.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT):
            raise unavailable() from error
        return False
    try:
        return write_to_pipe(descriptor, line)
    finally:
        os.close(descriptor)


def write_to_pipe(descriptor: int, line: bytes) -> bool:
    """Write a request; `False` if the server has closed the pipe."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise unavailable()
    deadline = Deadline.after(TRIES * EVERY)
    while True:
        try:
            os.write(descriptor, line)  # All of it or nothing, up to PIPE_BUF bytes.
            return True
        except BrokenPipeError:  # The server went away since the pipe was opened.
            return False
        except BlockingIOError:
            if deadline.passed():
                raise unavailable()
            wait_for(descriptor, select.POLLOUT, deadline.remaining())


def unavailable() -> BrokenPipeError:
    """The error of a client that cannot reach its server; torch's text."""
    return BrokenPipeError("Could not send the FileTimerRequest because FileTimerServer is not available.")


class FileTimerServer(ProcessTimerServer):
    """Timer server of `FileTimerClient`s: sends each rank whose timer expired the signal of its request.

        server = FileTimerServer("/tmp/timers", run_id="nightly")
        server.start()
        # In each rank:
        configure(FileTimerClient("/tmp/timers"))

    The pipe is there from the constructor on, for this user alone, until `stop()`, `run_once()`, or the end
    of the server or its process.

    Args:
        file_path: where to make the pipe.
        run_id: names the run in log entries.
        max_interval: seconds until a kill that failed is tried again, at most; not the precision.
        daemon: whether the watchdog's thread ends with the process.
        log_event: called with "watchdog started", "watchdog stopped", "timer expired" or "kill worker
            process", and the request if it is about one; by the thread that starts and stops, and by the
            watchdog's.

    Raises:
        FileExistsError: the path is something else than a named pipe.
        FileNotFoundError: its directory is missing.
    """

    def __init__(
        self,
        file_path: str,
        run_id: str,
        max_interval: float = 10,
        daemon: bool = True,
        log_event: LogEvent | None = None,
    ) -> None:
        self._fifo = Fifo(file_path)
        super().__init__(self._fifo, max_interval, daemon)
        self._run_id, self._log_event = run_id, log_event
        self._progress: int | None = None

    def start(self) -> None:
        self._fifo.open()
        running = self._run is not None
        super().start()
        if not running:
            self._tell("watchdog started", None)

    def stop(self) -> None:
        """End the watchdog within half a second and remove the pipe; nobody is killed afterwards."""
        self._halt()
        self._fifo.close()

    def run_once(self) -> None:
        """End the watchdog, handle all requests that were written so far, and remove the pipe."""
        self._halt()
        run = Run()
        self._round(self._fifo.get(self._fifo.size(), 0), run)
        run.close()
        self._fifo.close()

    def _halt(self) -> None:
        running = self._run is not None
        super().stop()
        if running:
            self._tell("watchdog stopped", None)

    @staticmethod
    def is_process_running(pid: int) -> bool:
        """Whether there is such a process that has not exited; pids up to 1 are none to us."""
        process = identify(pid)
        return process is not None and not process.ended()

    def get_last_progress_time(self) -> int:
        """When the last request came: whole seconds on the scale of `time.time()`.  Now, if none came yet."""
        return int(SYSTEM_CLOCK.time()) if self._progress is None else self._progress

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        if timer_requests:
            self._progress = int(SYSTEM_CLOCK.time())
        super().register_timers(timer_requests)

    def _reap_worker(self, worker_id: Any) -> bool:
        for timer in self._due:
            if timer.key.owner == worker_id:
                self._tell("timer expired", timer.what)
        return super()._reap_worker(worker_id)

    def _signal(self, request: TimerRequest) -> int:
        return request.signal if isinstance(request, FileTimerRequest) else 0

    def _signalled(self, request: TimerRequest) -> None:
        self._tell("kill worker process", request)

    def _tell(self, name: str, request: TimerRequest | None) -> None:
        log.log(logging.DEBUG, "run %s: %s %r", self._run_id, name, request)
        if self._log_event is None:
            return
        try:
            self._log_event(name, request)  # type: ignore[arg-type]
        except Exception:
            log.exception("log_event failed")
