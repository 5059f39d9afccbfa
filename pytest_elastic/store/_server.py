"""The server of a store for other threads and processes."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial

from pytest_elastic.errors import DistNetworkError
from pytest_elastic.events import Sink
from pytest_elastic.loop import Loop
from pytest_elastic.pristine import os, socket
from pytest_elastic.store._address import TcpListener, UnixListener
from pytest_elastic.store._api import Span
from pytest_elastic.store._client import RemoteStore
from pytest_elastic.store._gate import Gate
from pytest_elastic.store._handle import DEFAULT_TIMEOUT
from pytest_elastic.store._service import Service
from pytest_elastic.store._state import StoreState

_SHORTEST_TOKEN = 16


class StoreServer:
    """Serves one `StoreState(wake="latched")` in a loop, its own (`start` or `poll` it) or a given one.

    Everything but `poll` may be called from any thread.  A context manager, which starts and closes.
    Nothing listens until `address` is asked for; ranks that were given a `pair` need no address.

    >>> from pytest_elastic.store import RemoteStore, StoreServer
    >>> with StoreServer() as server:  # Here, or in any other process of this user:
    ...     store = RemoteStore(server.address)
    ...     store.set("epoch", "1")
    ...     store.get("epoch")
    b'1'

    Args:
        timeout: of the handles that `store` gives.
        sink: receives an event for every request and wait, in the loop; it must be quick and must not raise.
        gate: is asked about each request of a labelled client, see `Gate`; `None` for nobody.
        loop: of the caller; `close` leaves it running.

    Attributes:
        state: the data and the waiters; they belong to the loop.
        loop: in which it serves.
    """

    def __init__(
        self,
        timeout: Span = DEFAULT_TIMEOUT,
        sink: Sink | None = None,
        gate: Gate | None = None,
        loop: Loop | None = None,
    ) -> None:
        self.state = StoreState(wake="latched")
        self.loop, self._owns_loop = loop or Loop("elastic store"), loop is None
        self._timeout = timeout
        self._host: str | None = None
        self._listener: UnixListener | TcpListener | None = None
        self._service = Service(self.state, gate, self.close, self.loop.selector)
        if sink is not None:
            self._service.report_to(sink)
        self._closing = self._closed = self._forked = self._public = False
        self.loop.call(self._open)

    @classmethod
    def over_tcp(
        cls, host: str = "127.0.0.1", token: str | None = None, timeout: Span = DEFAULT_TIMEOUT
    ) -> StoreServer:
        """A server whose `address` is a TCP port that the system chooses.

        Args:
            host: the interface to listen on.
            token: 16 bytes or more that clients must show; made at random where none is given.
            timeout: of the handles that `store` gives.

        Raises:
            ValueError: the token is too short.
        """
        if token is not None and len(token.encode()) < _SHORTEST_TOKEN:
            raise ValueError(f"a token has {_SHORTEST_TOKEN} bytes or more, not {len(token.encode())}")
        server = cls(timeout)
        server._host = host
        server._service.transport.token = os.urandom(_SHORTEST_TOKEN).hex() if token is None else token
        return server

    def __enter__(self) -> StoreServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def token(self) -> str:
        """What clients must know; empty on a unix socket, whose file only this user can reach."""
        return self._service.transport.token

    @property
    def address(self) -> str:
        """What `RemoteStore` takes, in any process; the server listens from the first look on.

        Raises:
            DistNetworkError: the server is closed.
        """
        if self._listener is None or not self._forked:
            self._check_open()
        self._public = True
        return self.loop.call(self._listen)

    def admit(self, label: Hashable, host: str = "127.0.0.1") -> tuple[str, str]:
        """An address and a token for one client, which may be on another machine.

        Args:
            label: whose the connections with this token are, as in `pair`.
            host: the interface to listen on; only the first call says it.

        Raises:
            DistNetworkError: the server is closed.
        """
        token = os.urandom(_SHORTEST_TOKEN).hex()

        def listen() -> str:
            self._check_open()
            if self._listener is None:
                self._host = host
                transport = self._service.transport
                transport.token = transport.token or os.urandom(_SHORTEST_TOKEN).hex()
            self._service.transport.labels[token] = label
            return self._listen()

        return self.loop.call(listen), token

    def start(self) -> None:
        """Serve from a thread, until `close`; a second call does nothing."""
        self._check_open()
        self.loop.start()

    def poll(self, timeout: float = 0.0) -> None:
        """Serve what is ready from the calling thread, and wait for it at most `timeout` seconds.

        For a server that was not started.  Always the same thread must call it.

        Raises:
            DistNetworkError: the server is closed.
        """
        self._check_open()
        self.loop.step(timeout)

    def fileno(self) -> int:
        """A descriptor that can be read when `poll` has something to do other than to end a wait."""
        return self.loop.fileno()

    def pair(self, label: Hashable = None) -> socket.socket:
        """The client's end of a new socket pair, for a `RemoteStore` here or in another process.

        Args:
            label: whose it is: further connections of that client inherit it, and `drop` takes it.

        Raises:
            DistNetworkError: the server is closed.
            OSError: no descriptor is left.
        """
        self._check_open()
        ours, theirs = socket.socketpair()
        if not self.loop.post(partial(self._add_door, ours, label)):
            ours.close()
        return theirs

    def store(self, label: Hashable = None) -> RemoteStore:
        """A handle for this process, over a socket pair."""
        return RemoteStore(self.pair(label), timeout=self._timeout)

    def drop(self, label: Hashable) -> None:
        """Forget the connections with this label before any later request is served.

        For a client that has exited: another process may hold a copy of its sockets.
        """
        self.loop.post(partial(self._drop, label))

    @property
    def listens(self) -> bool:
        """Whether the address was asked for, so that anybody may connect."""
        return self._public

    def pass_to(self, gate: Gate | None) -> None:
        """Ask this gate from now on, or nobody; blocks until that is so."""
        if gate is not self._service.gate:
            self.loop.call(partial(self._service.pass_to, gate))

    def rested(self, label: Hashable) -> None:
        """Tell the gate that this client asks for nothing more until it is told to."""
        if self._service.gate is not None:
            self.loop.post(partial(self._service.rested, label))

    def close(self) -> None:
        """Hang up on everybody and leave no thread, descriptor or file; at most 1 s, idempotent."""
        self._closing = True
        if not self._owns_loop:
            self.loop.call(self._end)
            return
        self.loop.post(self._end)
        self.loop.close()

    # In the loop.

    def tell_when(self, blocked: int) -> None:
        """Let the sink be told when so many requests are blocked, or when there is time; 0: at once."""
        if self._service.reporter is not None:
            self._service.reporter.patience = blocked

    def tell(self) -> None:
        """Tell the sink all that was not told yet."""
        if self._service.reporter is not None:
            self._service.reporter.tell()

    def jump(self, most: float = math.inf, leap: bool = True) -> None:
        """Let the time pass, at once, until the first of the waits has timed out.

        Nothing happens if that is `most` seconds away, or more, or never.

        Args:
            leap: whether it passes for the others, too.
        """
        self._service.jump(most, leap)

    def inspect(self, label: Hashable) -> None:
        """Ask a client that waits what else in its process may go on; the answer is a `RankInspected`."""
        self._service.inspect(label)

    def _open(self) -> None:
        self.loop.add(self._service)
        if self._owns_loop:
            self.loop.in_child(self.let_go)

    def _listen(self) -> str:
        if self._listener is None:
            self._check_open()
            self._listener = UnixListener() if self._host is None else TcpListener(self._host)
            self._service.transport.listen(self._listener)
        return self._listener.address

    def _add_door(self, end: socket.socket, label: Hashable) -> None:
        if self._closed:  # A pair that was ordered in the last moment.
            end.close()
        else:
            self._service.add_door(end, label)

    def _drop(self, label: Hashable) -> None:
        if not self._closed:
            self._service.drop(label)

    def _end(self) -> None:
        if self._closed:
            return
        self._closing = self._closed = True
        self.tell()
        self.loop.remove(self._service)
        self._service.transport.close()
        if self._listener is not None:
            self._listener.close()

    def let_go(self) -> None:
        """Close this process's descriptors, in a forked child: the server is the parent's."""
        self._forked = not self._closing
        self._closing = self._closed = True
        if self._listener is not None:
            self._listener.socket.close()
        self._service.transport.let_go()

    def _check_open(self) -> None:
        if self._closing:
            raise DistNetworkError("the store's server is closed")
