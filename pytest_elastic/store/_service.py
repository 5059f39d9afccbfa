"""The loop of a served store: one thread, one state, any number of connections.

*Theory of operation.*  Requests are applied in the order in which they are read; this is the store's one
order.  A connection has one request at a time: while it is blocked, or does not take its answer, its next
frames wait (a bounded number of them).  The nearest deadline is kept as a lower bound, so that a wait that
is answered costs nothing to cancel; a bound that has become too low costs one needless look.

Time is that of a clock that can be put forward: when nobody is left to end a wait, `jump` lets its timeout
pass at once.  To those who asked (`reporter`) everything is told as events, and `settle` answers when all
that had arrived is taken up.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

from pytest_elastic.clock import LeapingClock
from pytest_elastic.events import Sink
from pytest_elastic.pristine import socket
from pytest_elastic.store._address import Listener
from pytest_elastic.store._agenda import Agenda
from pytest_elastic.store._connection import Connection, Door
from pytest_elastic.store._gate import Ending
from pytest_elastic.store._handle import timeout_error
from pytest_elastic.store._poller import READ, WRITE, Poller
from pytest_elastic.store._reporter import Reporter
from pytest_elastic.store._spare import Spare
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._wire import (
    ADOPT,
    GREETING,
    INSPECT,
    INSPECTED,
    REQUESTS,
    VERSION,
    Layout,
    WireError,
    pack_answer,
    pack_error,
    pack_refusal,
)

_QUIET = 0.005  # Seconds with nothing to do, after which what was noted is told.
_MOMENT = 2.0  # Seconds for the client whose wait was ended by a jump.
_GREETING_TIME = 10.0  # Seconds for a stranger to greet, so that nobody holds descriptors for nothing.

_log = logging.getLogger(__name__)


class Service:
    """Serves one state.  All methods belong to one thread.

    Attributes:
        state: the store's data and waiters.
        token: what those who connect must know.
        reporter: who is told of each request and wait; `None` for nobody.
        clock: that of the timeouts.
        agenda: what is to be done besides.
    """

    def __init__(self, state: StoreState) -> None:
        self.state = state
        self.token = ""
        self.reporter: Reporter | None = None
        self.clock = LeapingClock()
        self.agenda = Agenda()
        self._operations = {one.code: (one, getattr(state, one.name)) for one in REQUESTS.values()}
        self._poller = Poller()
        self._acts: dict[int, Callable[[], None]] = {}
        self._connections: dict[int, Connection] = {}
        self._strangers: dict[Connection, None] = {}
        self._blocked: dict[Waiter, Connection] = {}
        self._free: deque[Connection] = deque()
        self._next = math.inf
        self._count = 0
        self._spare = Spare()

    def report_to(self, sink: Sink) -> None:
        """Tell of each request and wait from now on."""
        self.reporter = Reporter(sink, self.state, self._blocked)

    def watch(self, one: socket.socket, act: Callable[[], None]) -> None:
        """Call `act` when this socket can be read."""
        self._acts[one.fileno()] = act
        self._poller.add(one.fileno(), READ)

    def listen(self, listener: Listener) -> None:
        """Serve those who connect."""
        self.watch(listener.socket, partial(self._accept, listener))

    def add_door(self, end: socket.socket, label: Hashable) -> None:
        """Serve the client at the other end of this socket pair."""
        self._add(Door(end, label))

    def drop(self, label: Hashable) -> None:
        """Forget all connections with this label."""
        for connection in list(self._connections.values()):
            if connection.label == label:
                self._part(connection)
        self._go_on()

    def poll(self, timeout: float) -> None:
        """Serve what is ready, and wait for that for `timeout` seconds at most."""
        settled = self.agenda.take_settled()
        if settled is not None:
            timeout = 0.0
        elif self._next < math.inf:
            timeout = max(0.0, min(timeout, self._next - self.clock.monotonic()))
        noted = self.reporter is not None and bool(self.reporter.noted)
        ready = self._poller.wait(min(timeout, _QUIET) if noted else timeout)
        if self.reporter is not None and noted and not ready:
            self.reporter.tell()
        for descriptor, _ in ready:
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._act(connection)
            elif descriptor in self._acts:
                self._acts[descriptor]()
            if self._free:
                self._go_on()
        if self._next < math.inf and self.clock.monotonic() >= self._next:
            self._expire()
            self._go_on()
        if settled is not None:
            if self.reporter is not None:
                self.reporter.tell()  # Of waits that have just timed out, too: who had one is at work again.
            settled()

    def has_arrived(self) -> bool:
        """Whether something is there to be served."""
        return bool(self._poller.wait(0.0))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` once, in so many seconds or at the next jump; in place of what was to be called so."""
        self.agenda.set_alarm(self.clock.monotonic() + seconds, act)
        self._next = min(self._next, self.agenda.at)

    def jump(self, most: float = math.inf, leap: bool = True) -> None:
        """Let the time pass until the next wait is over, at once; nothing if that is `most` seconds or more.

        Its client has a moment to end the other waits: until then they end only by the next jump.  Greetings
        keep their time, and so does everybody where it is no leap.
        """
        nearest = min((connection.deadline for connection in self._blocked.values()), default=math.inf)
        seconds = max(0.0, nearest - self.clock.monotonic())
        if seconds >= most:
            return
        if leap:
            self.clock.leap(seconds)
            for stranger in self._strangers:
                stranger.deadline += seconds
        for connection in self._blocked.values():
            connection.spared = self.clock.monotonic() + _MOMENT
        self._expire(nearest)
        self._go_on()

    def fileno(self) -> int:
        """The poller's descriptor."""
        return self._poller.fileno()

    def close(self) -> None:
        """Hang up on everybody."""
        for connection in self._connections.values():
            connection.close()
        self.let_go()

    def let_go(self) -> None:
        """Close this process's descriptors; connections that another process holds live on."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._poller.close()
        self._spare.close()

    # Connections come and go.

    def _accept(self, listener: Listener) -> None:
        try:
            end, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._spare.turn_away(listener.socket, error)
            _log.warning("a client was turned away: %s", error)
            return
        connection = Connection(end, None)
        try:
            reason = listener.refusal(end)
        except OSError:  # It has hung up already.
            connection.close()
            return
        if reason:
            self._add(connection)
            self._refuse(connection, reason)
        else:
            connection.deadline = self.clock.monotonic() + _GREETING_TIME
            self._strangers[connection] = None
            self._next = min(self._next, connection.deadline)
            self._add(connection)

    def _add(self, connection: Connection) -> None:
        self._count += 1
        connection.whose = connection.label, -self._count if connection.over else self._count
        self._connections[connection.descriptor] = connection
        self._poller.add(connection.descriptor, READ)

    def _part(self, connection: Connection) -> None:
        """Forget a client; what it was about to get goes to the next one."""
        if not connection.open:
            return
        self._poller.remove(connection.descriptor)
        connection.close()
        del self._connections[connection.descriptor]
        self._strangers.pop(connection, None)
        waiter = connection.waiter
        if waiter is not None:
            del self._blocked[waiter]
            self._ended([connection], "gone")
            self.state.abandon(waiter)
            self._wake()
        elif self.reporter is not None:
            self.reporter.left(connection)

    def _refuse(self, connection: Connection, reason: str) -> None:
        _log.warning("a client of the store (%r) was refused: %s", connection.label, reason)
        with suppress(OSError):
            connection.send(pack_refusal(reason))
        self._part(connection)

    # Bytes come and go.

    def _act(self, connection: Connection) -> None:
        try:
            if connection.stuck:
                self._flush(connection)
                return
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
            self._part(connection)

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        if not connection.stuck:
            self._poller.change(connection.descriptor, READ)
            self._free.append(connection)

    def _go_on(self) -> None:
        """Serve the frames that waited for their connection's earlier answer."""
        while self._free:
            connection = self._free.popleft()
            try:
                while connection.open and connection.backlog and not connection.busy:
                    self._serve(connection, connection.backlog.popleft())
            except WireError as error:
                self._refuse(connection, str(error))

    def _answer(self, connection: Connection, frame: bytes) -> bool:
        """Whether the client was there to be answered."""
        try:
            connection.send(frame)
        except OSError:
            self._part(connection)
            return False
        if connection.stuck:
            self._poller.change(connection.descriptor, WRITE)
        elif connection.backlog:
            self._free.append(connection)
        return True

    # Operations.

    def _serve(self, connection: Connection, frame: bytes) -> None:
        operation = self._operations.get(frame[4])
        if operation is None or not connection.greeted:
            self._meet(connection, frame)
            return
        self._take(connection, *operation, frame)

    def _take(self, connection: Connection, layout: Layout, apply: Callable[..., Any], frame: bytes) -> None:
        """Apply a request, answer it, and answer those whom it wakes."""
        arguments = layout.unpack(frame)
        seconds = arguments.pop(0) if layout.blocks else 0.0
        if layout.blocks:  # The alarm, and what the caller knows, are for the reporter.
            del arguments[0]
        if layout.declares:
            del arguments[-2:]
        reply = None
        try:
            answer = apply(*arguments)
            if type(answer) is not Waiter:
                reply = pack_answer(layout, answer)
        except Exception as error:  # It is the caller's, whatever it is: the others must go on.
            answer, reply = Reporter.failed, pack_error(error)
        waits = type(answer) is Waiter and seconds > 0
        if self.reporter is not None and (not waits or layout.name == "barrier"):
            self.reporter.called(connection, frame, answer)
        if waits:
            self._hold(connection, answer, seconds, frame)
        elif reply is None:
            reply = self._turn_down(answer, seconds)
        if reply is not None:
            self._answer(connection, reply)
        if self.state.woken:
            self._wake()

    def _hold(self, connection: Connection, waiter: Waiter, seconds: float, frame: bytes) -> None:
        """Let the connection wait."""
        waiter.client = connection.label
        connection.hold(waiter, self.clock.monotonic(), seconds)
        connection.ahead = self.clock.ahead
        self._blocked[waiter] = connection
        self._next = min(self._next, connection.deadline)
        if self.reporter is not None:
            self.reporter.waits(connection, frame, waiter)

    def _turn_down(self, waiter: Waiter, seconds: float) -> bytes:
        """The answer to a request that has no time."""
        missing = self.state.missing(waiter)
        self.state.abandon(waiter)
        return pack_error(timeout_error(missing, seconds, 0.0))

    def _wake(self) -> None:
        """Answer the waiters whom the last write completed."""
        woken = self.state.woken
        while woken:
            answered = [(waiter, self._blocked.pop(waiter)) for waiter in woken]
            woken.clear()
            self._ended([connection for _, connection in answered], "done")
            for waiter, connection in answered:
                try:
                    reply = pack_answer(REQUESTS[waiter.name], waiter.result)
                except ValueError as error:
                    reply = pack_error(error)
                if not self._answer(connection, reply):
                    self.state.abandon(waiter)

    def _expire(self, jumped: float = -math.inf) -> None:
        """End the waits whose time is over; `jumped` is the deadline of those who are not spared."""
        now = self.clock.monotonic()
        for connection in [one for one in self._strangers if one.deadline <= now]:
            self._refuse(connection, f"no greeting within {_GREETING_TIME:g} s")
        over = [(w, c) for w, c in self._blocked.items() if c.due <= now or c.deadline <= jumped]
        for waiter, connection in over:
            if connection.waiter is waiter:
                self._end_wait(connection, waiter, now, connection.deadline <= jumped)
        self.agenda.ring(now)
        waiting = [*self._strangers, *self._blocked.values()]
        self._next = min((connection.due for connection in waiting), default=math.inf)
        self._next = min(self._next, self.agenda.at)

    def _end_wait(self, connection: Connection, waiter: Waiter, now: float, jumped: bool = False) -> None:
        """Its timeout has passed, or is taken to have."""
        missing = self.state.missing(waiter)
        self.state.abandon(waiter)
        del self._blocked[waiter]
        jumped = jumped or self.clock.ahead > connection.ahead
        self._ended([connection], "jumped" if jumped else "timed out")
        elapsed = now - connection.started
        if jumped:
            elapsed = max(elapsed, connection.timeout)
        self._answer(connection, pack_error(timeout_error(missing, connection.timeout, elapsed)))

    def _ended(self, connections: list[Connection], how: Ending) -> None:
        """Their waits are over."""
        for connection in connections:
            connection.release()
        if self.reporter is not None:
            self.reporter.ended(connections, how)

    # Inspections.

    def inspect(self, label: Hashable) -> None:
        """Ask a client that waits what else in its process may go on; the reporter tells what it says."""
        its = [one for one in self._blocked.values() if one.label == label]
        if its:  # The last one: an earlier one may be that of a call that was interrupted.
            self._answer(max(its, key=lambda one: abs(one.whose[1])), INSPECT)

    def _inspected(self, connection: Connection, frame: bytes) -> bool:
        """Whether this is such an answer."""
        if frame[4] != INSPECTED.code or not connection.greeted:
            return False
        values = INSPECTED.unpack(frame)
        if self.reporter is not None:
            self.reporter.inspected(connection, values)
        return True

    # Greetings.

    def _meet(self, connection: Connection, frame: bytes) -> None:
        if self._inspected(connection, frame):
            return
        if frame[4] == ADOPT.code and isinstance(connection, Door):
            self._adopt(connection, *ADOPT.unpack(frame))
        elif connection.greeted:
            raise WireError(f"there is no operation with the code {frame[4]}")
        elif frame[4] != GREETING.code:
            raise WireError("the first frame must be a greeting")
        else:
            self._greet(connection, *GREETING.unpack(frame))

    def _adopt(self, door: Door, over: bool) -> None:
        end = door.adopted()
        if end is not None:
            connection = Connection(end, door.label)
            connection.trusted, connection.over = True, over
            self._add(connection)

    def _greet(self, connection: Connection, version: int, token: bytes) -> None:
        import hmac

        if version != VERSION:
            raise WireError(f"the server speaks version {VERSION} of the protocol, the client {version}")
        needed = b"" if connection.trusted else self.token.encode()
        if not hmac.compare_digest(token, needed):
            raise WireError("wrong token")
        self._strangers.pop(connection, None)
        connection.greet()
        self._answer(connection, pack_answer(GREETING, None))
