"""The server of a store for other threads and processes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial

from pytest_elastic.errors import DistNetworkError
from pytest_elastic.events import Sink
from pytest_elastic.pristine import os, socket, threading
from pytest_elastic.store._address import TcpListener, UnixListener
from pytest_elastic.store._api import Span
from pytest_elastic.store._client import RemoteStore
from pytest_elastic.store._gate import Gate
from pytest_elastic.store._handle import DEFAULT_TIMEOUT, watch_forks
from pytest_elastic.store._service import Service
from pytest_elastic.store._state import StoreState

_CLOSING_TIME = 1.0
_SHORTEST_TOKEN = 16


class StoreServer:
    """Serves one `StoreState(wake="latched")` from one thread; `start` it, or `poll` it from a loop.

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
        sink: receives an event for every request and wait, in the serving thread; it must be quick and must
            not raise.
        gate: is asked about each request of a labelled client, see `Gate`; `None` for nobody.

    Attributes:
        state: the data and the waiters; only the serving thread may touch it while it runs.
    """

    def __init__(
        self, timeout: Span = DEFAULT_TIMEOUT, sink: Sink | None = None, gate: Gate | None = None
    ) -> None:
        self.state = StoreState(wake="latched")
        self._timeout = timeout
        self._host: str | None = None
        self._listener: UnixListener | TcpListener | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # A signal's handler may close the server.
        self._turn = threading.RLock()  # Who polls, or ends a server that was not started.
        self._orders: deque[Callable[[], None]] = deque()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._service = Service(self.state, gate, self.close)
        self._service.watch(self._ear, self._obey)
        if sink is not None:
            self._service.report_to(sink)
        self._closing = self._closed = self._forked = False
        watch_forks(self)

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
        with self._lock:
            if self._forked and self._listener is not None:
                return self._listener.address
            self._check_open()
            if self._listener is None:
                self._listener = UnixListener() if self._host is None else TcpListener(self._host)
                self._order(partial(self._service.transport.listen, self._listener))
            return self._listener.address

    def start(self) -> None:
        """Serve from a thread, until `close`; a second call does nothing."""
        with self._lock:
            self._check_open()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="elastic store", daemon=True)
                thread.start()
                self._thread = thread

    def poll(self, timeout: float = 0.0) -> None:
        """Serve what is ready from the calling thread, and wait for it at most `timeout` seconds.

        For a server that was not started.  Always the same thread must call it.

        Raises:
            DistNetworkError: the server is closed.
        """
        with self._turn:
            self._check_open()
            try:
                self._service.poll(timeout)
            except Exception:
                if not self._closed:  # By a signal's handler, in the middle of it.
                    raise
            finally:
                if self._closing:
                    self._end()

    def fileno(self) -> int:
        """A descriptor that can be read when `poll` has something to do other than to end a wait."""
        return self._service.fileno()

    def due(self) -> float:
        """The moment of the monotonic clock at which `poll` has something to do anyhow, `inf` for never."""
        return self._service.due()

    def pair(self, label: Hashable = None) -> socket.socket:
        """The client's end of a new socket pair, for a `RemoteStore` here or in another process.

        Args:
            label: whose it is: further connections of that client inherit it, and `drop` takes it.

        Raises:
            DistNetworkError: the server is closed.
            OSError: no descriptor is left.
        """
        with self._lock:
            self._check_open()
            ours, theirs = socket.socketpair()
            self._order(partial(self._service.add_door, ours, label))
        return theirs

    def store(self, label: Hashable = None) -> RemoteStore:
        """A handle for this process, over a socket pair."""
        return RemoteStore(self.pair(label), timeout=self._timeout)

    def drop(self, label: Hashable) -> None:
        """Forget the connections with this label before any later request is served.

        For a client that has exited: another process may hold a copy of its sockets.
        """
        self.order(partial(self._service.drop, label))

    @property
    def listens(self) -> bool:
        """Whether the address was asked for, so that anybody may connect."""
        return self._listener is not None

    def order(self, act: Callable[[], None]) -> bool:
        """Have the serving thread do this next; whether it will: not so if the server is closed."""
        with self._lock:
            if not self._closing:
                self._order(act)
            return not self._closing

    def tell_when(self, blocked: int) -> None:
        """Let the sink be told when so many requests are blocked, or when there is time; 0: at once."""
        if self._service.reporter is not None:
            self._service.reporter.patience = blocked

    # For the sink and for what was ordered: from the serving thread only.

    def tell(self) -> None:
        """Tell the sink all that was not told yet."""
        if self._service.reporter is not None:
            self._service.reporter.tell()

    def settle(self, act: Callable[[], None]) -> None:
        """Call `act` once, when what has arrived by now is served; in place of what was to be called so."""
        self._service.settle(act)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` once, in so many seconds or at the next jump; in place of what was to be called so."""
        self._service.after(seconds, act)

    def jump(self, most: float = math.inf, leap: bool = True) -> None:
        """Let the time pass, at once, until the first of the waits has timed out.

        Nothing happens if that is `most` seconds away, or more, or never.

        Args:
            leap: whether it passes for the others, too.
        """
        self._service.jump(most, leap)

    def has_arrived(self) -> bool:
        """Whether something has arrived that is not served yet."""
        return self._service.has_arrived()

    def inspect(self, label: Hashable) -> None:
        """Ask a client that waits what else in its process may go on; the answer is a `RankInspected`."""
        self._service.inspect(label)

    def rested(self, label: Hashable) -> None:
        """Tell the gate that this client asks for nothing more until it is told to."""
        if self._service.gate is not None:
            self.order(partial(self._service.rested, label))

    def pass_to(self, gate: Gate | None) -> None:
        """Ask this gate from now on, or nobody; blocks until that is so."""
        with self._lock:
            if gate is self._service.gate:
                return
            if self._closing or self._thread is None:
                self._service.pass_to(gate)
                return
            done = threading.Event()
            self._order(partial(self._service.pass_to, gate))
            self._order(done.set)
        done.wait(_CLOSING_TIME)

    def close(self) -> None:
        """Hang up on everybody and leave no thread, descriptor or file; at most 1 s, idempotent."""
        with self._lock:
            self._closing = True
            # The thread stays on record: a second closer must not end what it still serves from.
            thread = self._thread
            self._ring()
        if thread is None:
            if self._turn.acquire(timeout=_CLOSING_TIME):
                self._end()
                self._turn.release()
        elif thread is not threading.current_thread():
            thread.join(_CLOSING_TIME)

    def after_fork(self) -> None:
        """In a forked child: the server is the parent's."""
        self._forked = not self._closing
        self._closing = self._closed = True
        self._thread = None
        self._lock = threading.RLock()
        self._turn = threading.RLock()
        for end in (self._bell, self._ear, *([self._listener.socket] if self._listener else [])):
            end.close()
        self._service.transport.let_go()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._service.poll(math.inf)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closing = self._closed = True
        self._obey()  # A pair that was ordered in the last moment is hung up on like the others.
        self.tell()
        self._service.transport.close()
        if self._listener is not None:
            self._listener.close()
        with self._lock:  # Nobody rings with a descriptor that is another's by then.
            self._bell.close()
            self._ear.close()

    def _check_open(self) -> None:
        if self._closing:
            raise DistNetworkError("the store's server is closed")

    def _order(self, act: Callable[[], None]) -> None:
        """Have the serving thread do this next; the caller holds the lock."""
        self._orders.append(act)
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):  # Full: it rings already.  Closed: nobody needs to hear it.
            self._bell.send(b"!")

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        while self._orders:
            self._orders.popleft()()
