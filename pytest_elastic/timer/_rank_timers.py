"""Timers over one channel per rank: no thread in the rank, no pickle, nothing shared.

*Theory of operation.*  A channel is a pair of connected sockets of the packet kind (`SOCK_SEQPACKET`).  A
request is one packet, sent by one `write`: the kernel has all of it or nothing, so that a rank killed at any
moment leaves no half request, one that hangs with the interpreter's lock held has sent what it acquired, and
garbage is one packet that is skipped.  The table has no thread: its owner polls the channels and the next
deadline, in the loop that it has anyway.

Before the table gives a rank up it reads that rank's channel once more: a release that was sent before lives.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_elastic.clock import SYSTEM_CLOCK, Clock, Deadline
from pytest_elastic.pristine import os, select, socket, struct, threading
from pytest_elastic.processes import Process, wait_for
from pytest_elastic.timer._grace import Grace
from pytest_elastic.timer._requests import RELEASE, Origin, Scope, TimerClient, log, made_here
from pytest_elastic.timer._table import Key, Timer, Timers

PATIENCE = 1.0
"""Seconds that a rank waits for room in its channel."""

_AT_ONCE = 1024
"""Packets taken in one reading: more than a socket's buffer holds, less than a rank can send for ever."""


class Request(NamedTuple):
    """A packet: these fields, then `size` bytes of the file's name, then the scope.

    Attributes:
        magic: `MAGIC`.
        deadline: on the monotonic clock.
        span: seconds from the request to the deadline; negative in a release.
        pid: of the process that made it, the rank's or a fork of it.
        started: that process's start time, in clock ticks since boot.
        thread: as `threading.get_ident` has it.
        line: of the code that acquired.
        size: of the file's name, in bytes.
    """

    magic: bytes
    deadline: float
    span: float
    pid: int
    started: int
    thread: int
    line: int
    size: int


_HEAD = struct.Struct("<4sddIQQIH")
_LENGTH = struct.Struct("<H")  # Of a packet that comes by a stream.
MAGIC = b"pet1"


@dataclass(frozen=True, slots=True)
class Expiry:
    """A timer that was not released in time.

    Attributes:
        rank: whose it is.
        scope: its name; `file#line` if it was given none.
        file: of the code that armed it.
        line: of that code, 1-based.
        span: seconds that were allowed.
        pid: the process that armed it, the rank's or a fork of it.
        thread: that armed it, as `threading.get_ident` and the dumps of `faulthandler` have it.
        deadline: on the monotonic clock.
    """

    rank: int
    scope: str
    file: str
    line: int
    span: float
    pid: int
    thread: int
    deadline: float


def open_channel() -> tuple[int, int]:
    """Descriptors of a new channel: the table's end, and the rank's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


class PipeTimerClient(TimerClient):
    """The rank's end: when a call returns, the kernel has the request.

    Thread-safe; forks of the rank may use it too.  The descriptor stays its owner's.

    Args:
        descriptor: the rank's end of a channel; it is made non-blocking.

    Raises:
        BrokenPipeError: (when sending) the table has gone, or did not read for a second.
        RuntimeError: (when sending) file and scope have more bytes than a packet may.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        span = RELEASE if expiration_time < 0 else max(0.0, expiration_time - SYSTEM_CLOCK.time())
        if isinstance(scope_id, Scope):
            file, line, span = scope_id.file, scope_id.line, scope_id.span
        else:
            caller = sys._getframe(1)
            file, line = caller.f_code.co_filename, caller.f_lineno
        self._send(scope_id, made_here(expiration_time), span, file, line)

    def release(self, scope_id: str) -> None:
        self._send(scope_id, made_here(RELEASE), RELEASE, "", 0)

    def _send(self, scope_id: str, origin: Origin, span: float, file: str, line: int) -> None:
        name = encode(file)
        request = Request(
            MAGIC, origin.deadline, span, os.getpid(), origin.started, origin.thread, line, len(name)
        )
        packet = _HEAD.pack(*request) + name + encode(scope_id)
        if len(packet) > select.PIPE_BUF:
            raise RuntimeError(f"a request may have {select.PIPE_BUF} bytes, not {len(packet)}: {scope_id!r}")
        self._write(packet)

    def _write(self, packet: bytes) -> None:
        deadline = Deadline.after(PATIENCE)
        while True:
            try:
                os.write(self._descriptor, packet)
                return
            except BlockingIOError:  # The channel is full, or another thread was faster.
                if not wait_for(self._descriptor, select.POLLOUT, deadline.remaining()):
                    raise BrokenPipeError("the timer server does not read") from None


class StreamTimerClient(PipeTimerClient):
    """The rank's end of a stream, such as a TCP connection.  Thread-safe; not for forks of the rank."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._lock = threading.RLock()

    def _write(self, packet: bytes) -> None:
        deadline, rest = Deadline.after(PATIENCE), _LENGTH.pack(len(packet)) + packet
        with self._lock:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    if not wait_for(self._descriptor, select.POLLOUT, deadline.remaining()):
                        raise BrokenPipeError("the timer server does not read") from None


class TimerTable:
    """The other end of all ranks' channels, for a poll loop.  Not thread-safe.

    Poll the `channels()` for reading, until `next_deadline()`; `read` what is readable, then ask `expired()`.
    Nothing here blocks or signals.

    Args:
        clock: must be the one that the ranks have.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._channels: dict[int, int] = {}
        self._streams: dict[int, bytearray] = {}  # What is left of a packet that is not whole.
        self._timers: Timers[Expiry] = Timers()
        self._grace = Grace()
        self._paused: float | None = None

    def attach(self, rank: int, descriptor: int, stream: bool = False) -> None:
        """Take over the table's end of the rank's channel.

        Args:
            stream: whether it is no channel of `open_channel`, but a stream.  Its rank may be on another
                machine: its timers count from when a request is read, and end with the stream.
        """
        self.detach(rank)
        if stream:
            self._streams[rank] = bytearray()
        os.set_blocking(descriptor, False)
        self._channels[rank] = descriptor

    def detach(self, rank: int) -> None:
        """Close the rank's channel and forget its timers; nothing happens if there is none."""
        if rank in self._channels:
            os.close(self._channels.pop(rank))
            self._streams.pop(rank, None)
        self._timers.drop(rank)

    def close(self) -> None:
        """Detach every rank."""
        for rank in list(self._channels):
            self.detach(rank)

    def channels(self) -> dict[int, int]:
        """Descriptor -> rank; one is readable when its rank sent something, or nobody holds the other end."""
        return {descriptor: rank for rank, descriptor in self._channels.items()}

    def read(self, rank: int) -> bool:
        """Take what the rank has sent; `False` if nobody holds the other end any more."""
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(self._channels[rank], select.PIPE_BUF)
            except BlockingIOError:
                return True
            except OSError:  # A stream that was reset.
                return False
            if not packet:
                return False
            if rank in self._streams:
                self._feed_stream(rank, packet)
            else:
                self.feed(rank, packet)
        return True

    def _feed_stream(self, rank: int, data: bytes) -> None:
        buffer = self._streams[rank]
        buffer += data
        while len(buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                return
            self.feed(rank, bytes(buffer[_LENGTH.size : end]))
            del buffer[:end]

    def feed(self, rank: int, packet: bytes) -> None:
        """Do what one packet says; what is none is logged."""
        try:
            self._handle(rank, packet)
        except (struct.error, ValueError) as error:
            log.warning("rank %d sent no timer request: %r (%s)", rank, packet, str(error))

    def _handle(self, rank: int, packet: bytes) -> None:
        request = Request(*_HEAD.unpack_from(packet))
        start = _HEAD.size + request.size
        if request.magic != MAGIC or start > len(packet) or math.isnan(request.deadline):
            raise ValueError("it does not begin like one")
        key = Key(rank, request.pid, request.thread, decode(packet[start:]))
        if request.span < 0:
            self._timers.disarm(key)
            return
        file = decode(packet[_HEAD.size : start])
        process: Process | None = Process(key.pid, request.started)
        deadline = request.deadline
        if rank in self._streams:  # Neither its process nor its clock need be of this machine.
            process, deadline = None, self._clock.monotonic() + request.span
        expiry = Expiry(rank, key.scope, file, request.line, request.span, key.pid, key.thread, deadline)
        self._timers.arm(Timer(key, process, deadline, expiry))

    def next_deadline(self) -> float:
        """When to ask `expired()`: a point of the monotonic clock, `math.inf` if nothing is armed."""
        if self._paused is not None:
            return math.inf
        return self._grace.plan(self._timers.next_deadline(), self._clock.monotonic())

    def expired(self) -> list[Expiry]:
        """What expired since it was last asked, the earliest first, and one for each rank.

        A rank that is named has no timer any more.  The timers of a process that has ended do not count.
        After a stall there may be none yet, see `Grace`: `next_deadline` says when to ask again.
        """
        if self._paused is not None:
            return []
        now = self._clock.monotonic()
        found: dict[int, Expiry] = {}
        for rank in {timer.what.rank for timer in self._timers.expired(now)}:
            if rank in self._channels:
                self.read(rank)
        due = self._timers.expired(now)
        for timer in due if due and self._grace.over(now) else ():
            found.setdefault(timer.what.rank, timer.what)
        for rank in found:
            self._timers.drop(rank)
        return list(found.values())

    def disarm(self, rank: int) -> None:
        """Forget the rank's timers, and what it has sent up to now."""
        if rank in self._channels:
            self.read(rank)
        self._timers.drop(rank)

    def pause(self) -> None:
        """Let all timers stand still; does nothing if they do."""
        if self._paused is None:
            self._paused = self._clock.monotonic()

    def resume(self) -> None:
        """Let all timers go on with the rest of their spans; does nothing if they do."""
        since, self._paused = self._paused, None
        if since is None:
            return
        now = self._clock.monotonic()
        for timer in self._timers.armed():
            # One that was armed while all stood still had its whole span left.
            stood = now - max(since, timer.deadline - timer.what.span)
            deadline = timer.deadline + stood
            self._timers.arm(replace(timer, deadline=deadline, what=replace(timer.what, deadline=deadline)))


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
