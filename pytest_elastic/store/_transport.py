"""The sockets of a served store: who connects, who greets, and the frames that come and go.

A connection has one request at a time: while it is blocked, kept by a gate, or does not take its answer, its
next frames wait (a bounded number of them).  Everything happens in the handlers that are registered with the
selector, which may be another loop's, and in `expire`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.pristine import os, selectors, socket
from pytest_elastic.store._address import Listener
from pytest_elastic.store._connection import Connection, Door
from pytest_elastic.store._wire import (
    ADOPT,
    GREETING,
    INSPECTED,
    VERSION,
    WireError,
    pack_answer,
    pack_refusal,
)

_GREETING_TIME = 10.0  # Seconds for a stranger to greet, so that nobody holds descriptors for nothing.

_log = logging.getLogger(__name__)


class Server(Protocol):
    """Who takes what the connections bring."""

    def request(self, connection: Connection, frame: bytes) -> None:
        """A request with a known code, of a connection that is not busy."""

    def inspected(self, connection: Connection, values: list[Any]) -> None:
        """The answer of a client that waits to an `INSPECT`."""

    def parted(self, connection: Connection) -> None:
        """A client has gone, or was dropped."""


class Transport:
    """All connections of one server.  All methods belong to one thread.

    Args:
        server: takes the requests.
        codes: those that requests may have.
        selector: that of a loop which calls the data of each key that is ready; its own if none is given.

    Attributes:
        token: what those who connect must know.
        labels: token -> whose the connections are that show it instead.
        connections: by descriptor.
        due: when `expire` is to be called next, on the monotonic clock.
    """

    def __init__(
        self, server: Server, codes: Mapping[int, object], selector: selectors.BaseSelector | None = None
    ) -> None:
        self.token = ""
        self.labels: dict[str, Hashable] = {}
        self.connections: dict[int, Connection] = {}
        self.due = math.inf
        self.selector = selectors.DefaultSelector() if selector is None else selector
        self._owned = selector is None
        self._server, self._codes = server, codes
        self._strangers: dict[Connection, float] = {}  # With the moment until which they must greet.
        self._free: deque[Connection] = deque()
        self._watched: list[socket.socket] = []
        self._count = 0
        self._reserve = ReserveDescriptor()

    def watch(self, one: socket.socket, act: Callable[[], None]) -> None:
        """Call `act` when this socket can be read."""

        def acting() -> None:
            act()
            self.go_on()

        self._watched.append(one)
        self.selector.register(one, selectors.EVENT_READ, acting)

    def listen(self, listener: Listener) -> None:
        """Serve those who connect."""
        self.watch(listener.socket, partial(self._accept, listener))

    def add(self, connection: Connection) -> None:
        """Serve the client at the other end of this connection."""
        self._count += 1
        connection.whose = connection.label, -self._count if connection.over else self._count
        self.connections[connection.descriptor] = connection
        self.selector.register(connection.socket, selectors.EVENT_READ, partial(self._act, connection))

    def send(self, connection: Connection, frame: bytes) -> bool:
        """Answer a client; whether it was there."""
        try:
            connection.send(frame)
        except OSError:
            self.part(connection)
            return False
        if connection.stuck:
            self._select(connection, selectors.EVENT_WRITE)
        elif connection.backlog:
            self._free.append(connection)
        return True

    def part(self, connection: Connection) -> None:
        """Hang up on a client."""
        if connection.open:
            self.selector.unregister(connection.socket)
            connection.close()
            del self.connections[connection.descriptor]
            self._strangers.pop(connection, None)
            self._server.parted(connection)

    def go_on(self) -> None:
        """Serve the frames that waited for their connection's earlier answer."""
        while self._free:
            connection = self._free.popleft()
            try:
                while connection.open and connection.backlog and not connection.busy:
                    self._serve(connection, connection.backlog.popleft())
            except WireError as error:
                self._refuse(connection, str(error))

    def expire(self) -> None:
        """Refuse those who have not greeted in time."""
        if (now := SYSTEM_CLOCK.monotonic()) < self.due:
            return
        for connection in [one for one, due in self._strangers.items() if due <= now]:
            self._refuse(connection, f"no greeting within {_GREETING_TIME:g} s")
        self.due = min(self._strangers.values(), default=math.inf)

    def close(self) -> None:
        """Hang up on everybody."""
        for one in (*self._watched, *(connection.socket for connection in self.connections.values())):
            self.selector.unregister(one)
        for connection in self.connections.values():
            connection.close()
        self.let_go()

    def let_go(self) -> None:
        """Close this process's descriptors; connections that another process holds live on."""
        for connection in self.connections.values():
            connection.socket.close()
        self.connections.clear()
        if self._owned:
            self.selector.close()
        self._reserve.close()

    def _select(self, connection: Connection, events: int) -> None:
        self.selector.modify(connection.socket, events, partial(self._act, connection))

    def _accept(self, listener: Listener) -> None:
        try:
            end, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._reserve.turn_away(listener.socket, error)
            _log.warning("a client was turned away: %s", error)
            return
        connection = Connection(end, None)
        try:
            reason = listener.refusal(end)
        except OSError:  # It has hung up already.
            connection.close()
            return
        self.add(connection)
        if reason:
            self._refuse(connection, reason)
        else:
            self._strangers[connection] = due = SYSTEM_CLOCK.monotonic() + _GREETING_TIME
            self.due = min(self.due, due)

    def _refuse(self, connection: Connection, reason: str) -> None:
        _log.warning("a client of the store (%r) was refused: %s", connection.label, reason)
        with suppress(OSError):
            connection.send(pack_refusal(reason))
        self.part(connection)

    def _act(self, connection: Connection) -> None:
        """A connection can be read, or written if it is stuck."""
        if not connection.open:  # Since the selector looked.
            return
        try:
            if connection.stuck:
                self._flush(connection)
                frames = []
            else:
                frames = connection.receive()
            if len(frames) == 1 and not connection.busy and not connection.backlog:
                self._serve(connection, frames[0])
            elif frames:
                # A client that waits answers an inspection; what it asks for waits for its answer.
                connection.backlog.extend(one for one in frames if not self._inspected(connection, one))
                self._free.append(connection)
        except WireError as error:
            self._refuse(connection, str(error))
        except OSError:
            self.part(connection)
        if self._free:
            self.go_on()

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        if not connection.stuck:
            self._select(connection, selectors.EVENT_READ)
            self._free.append(connection)

    def _serve(self, connection: Connection, frame: bytes) -> None:
        code = frame[4]
        if code in self._codes and connection.greeted:
            self._server.request(connection, frame)
        elif self._inspected(connection, frame):
            pass
        elif code == ADOPT.code and isinstance(connection, Door):
            self._adopt(connection, *ADOPT.unpack(frame))
        elif connection.greeted:
            raise WireError(f"there is no operation with the code {code}")
        elif code != GREETING.code:
            raise WireError("the first frame must be a greeting")
        else:
            self._greet(connection, *GREETING.unpack(frame))

    def _inspected(self, connection: Connection, frame: bytes) -> bool:
        if frame[4] != INSPECTED.code or not connection.greeted:
            return False
        self._server.inspected(connection, INSPECTED.unpack(frame))
        return True

    def _adopt(self, door: Door, over: bool) -> None:
        end = door.adopted()
        if end is not None:
            connection = Connection(end, door.label)
            connection.trusted, connection.over = True, over
            self.add(connection)

    def _greet(self, connection: Connection, version: int, token: bytes) -> None:
        import hmac

        if version != VERSION:
            raise WireError(f"the server speaks version {VERSION} of the protocol, the client {version}")
        tokens = {} if connection.trusted else self.labels
        label = [label for known, label in tokens.items() if hmac.compare_digest(token, known.encode())]
        needed = b"" if connection.trusted else self.token.encode()
        if label:
            connection.label, connection.whose = label[0], (label[0], connection.whose[1])
        elif not hmac.compare_digest(token, needed):
            raise WireError("wrong token")
        self._strangers.pop(connection, None)
        connection.greet()
        self.send(connection, pack_answer(GREETING, None))


class ReserveDescriptor:
    """Reserves one descriptor, so that the server can accept and refuse a client after EMFILE."""

    def __init__(self) -> None:
        self._descriptor: int | None = os.open(os.devnull, os.O_RDONLY)

    def turn_away(self, listening: socket.socket, error: OSError) -> None:
        """Accept a client in its place and tell it why it is not served; or it would stay ready for ever."""
        self.close()
        with suppress(OSError):
            end, _ = listening.accept()
            with end:
                end.send(pack_refusal(f"the store's server cannot take a client: {error}"))
        with suppress(OSError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Let it go; idempotent."""
        # First forgotten: a child forked meanwhile must not close it again.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
