"""One client of a served store, as the server sees it: its bytes in and out, and what it waits for."""

from __future__ import annotations

import array
import contextlib
from collections import deque
from collections.abc import Callable, Hashable

from pytest_elastic.pristine import os, socket
from pytest_elastic.store._gate import Request
from pytest_elastic.store._state import Waiter
from pytest_elastic.store._wire import MAX_FRAME, MAX_GREETING, Frames, WireError

_CHUNK = 64 * 2**10
_AHEAD = 2**20  # Bytes that a client may send while it waits for an answer.
_SPARE_DESCRIPTORS = 4
_SPACE = _SPARE_DESCRIPTORS * array.array("i").itemsize
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Connection:
    """A non-blocking socket with a bounded memory.

    Attributes:
        label: whose it is, as `StoreServer.pair` was told.
        whose: the label, and a number of this connection that no other of its service ever has; it is
            negative for one that is `over`.
        trusted: whether it came by a socket pair, and needs no token.
        over: whether its thread has another one, in the middle of a call over which it is.
        open: whether it was not closed yet.
        greeted: whether it has said the version and the token.
        waiter: what it waits for; `deadline`, `started` and `timeout` are then seconds.
        spared: until when the deadline does not count; see `Service.jump`.
        ahead: by how much the service's clock was ahead of the machine's when the wait began.
        stuck: whether it does not take its answer, so that nothing more is read from it.
        kept: whether its request is its gate's (see `_gate`).
        request: the one that is kept, or blocked, of a client with a gate.
        client: its number among those of its label, once it has asked a gate for something.
        busy: whether it waits, is kept or stuck, so that its next request is not looked at.
        backlog: frames that came while it was busy.
    """

    def __init__(self, end: socket.socket, label: Hashable) -> None:
        end.setblocking(False)
        self.socket, self.label, self.whose = end, label, (label, 0)
        self.descriptor = end.fileno()
        self.open, self.greeted = True, False
        self.trusted = self.over = False
        self.stuck = self.kept = self.busy = False
        self.waiter: Waiter | None = None
        self.request: Request | None = None
        self.client: int | None = None
        self.deadline = self.started = self.timeout = self.ahead = self.spared = 0.0
        self.backlog: deque[bytes] = deque()
        self._read: Callable[[int], bytes] = end.recv
        self._frames = Frames(MAX_GREETING)
        self._chunk = MAX_GREETING
        self._out = memoryview(b"")

    def hold(self, waiter: Waiter, started: float, timeout: float) -> None:
        """It waits from now on, for `timeout` seconds."""
        self.waiter, self.busy = waiter, True
        self.started, self.timeout, self.deadline = started, timeout, started + timeout
        self.spared = 0.0

    @property
    def due(self) -> float:
        """When its wait or its greeting is over."""
        return max(self.deadline, self.spared)

    def release(self) -> None:
        """It does not wait any more."""
        self.waiter, self.busy = None, self.stuck or self.kept

    def keep(self, kept: bool) -> None:
        """Its request is its gate's from now on, or is not any more."""
        self.kept, self.busy = kept, kept or self.stuck

    def greet(self) -> None:
        """It may send frames of the full size from now on."""
        self.greeted = True
        self._frames.limit, self._chunk = MAX_FRAME, _CHUNK

    def receive(self) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            OSError: the client is gone.
            WireError: it broke the protocol.
        """
        try:
            data = self._read(self._chunk)
        except (BlockingIOError, InterruptedError):
            return []
        if not data:
            raise ConnectionResetError("the client hung up")
        frames = self._frames.feed(data)
        if self.busy and sum(map(len, (*self.backlog, *frames, self._frames.held))) > _AHEAD:
            raise WireError(f"more than {_AHEAD} bytes sent ahead of an answer")
        return frames

    def send(self, frame: bytes) -> None:
        """Send an answer, the rest of it later if the client is slow; `OSError` if it is gone."""
        if self._out:  # The news that its request was kept was not taken yet.
            self._out = memoryview(bytes(self._out) + frame)
            return
        try:
            sent = self.socket.send(frame)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(frame):
            self._out = memoryview(frame)[sent:]
            self.stuck = self.busy = True

    def flush(self) -> None:
        """Send more of the rest."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._out = self._out[self.socket.send(self._out) :]
        if not self._out:
            self._out = memoryview(b"")  # Lets go of the answer's memory.
            self.stuck, self.busy = False, self.kept or self.waiter is not None

    def adopted(self) -> socket.socket | None:
        """The socket that came with an `ADOPT` frame; only a `Door` can have one."""
        return None

    def close(self) -> None:
        """End it for every process that holds a copy of either end."""
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Door(Connection):
    """The end of a socket pair, over which a client hands in further connections."""

    def __init__(self, end: socket.socket, label: Hashable) -> None:
        super().__init__(end, label)
        self.trusted = True
        self._read = self._read_with_descriptors
        self._descriptors: list[int] = []

    def adopted(self) -> socket.socket | None:
        # None came if this process has no descriptor left; the client then finds the other end closed.
        if not self._descriptors:
            return None
        descriptor = self._descriptors.pop(0)
        try:
            end = socket.socket(fileno=descriptor)
        except OSError:  # It is no socket.
            os.close(descriptor)
            return None
        if end.family == socket.AF_UNIX and end.type == socket.SOCK_STREAM:
            return end
        end.close()
        return None

    def close(self) -> None:
        super().close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _read_with_descriptors(self, size: int) -> bytes:
        data, messages, _, _ = self.socket.recvmsg(size, socket.CMSG_SPACE(_SPACE), _CLOSE_ON_EXEC)
        for level, kind, content in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if len(self._descriptors) > _SPARE_DESCRIPTORS:
            raise WireError("more descriptors than sockets handed in")
        return data
