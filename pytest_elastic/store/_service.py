"""The server's loop body: one state, any number of connections, one order.

*Theory of operation.*  Requests are applied in the order in which they are read; this is the store's one
order.  The nearest deadline is kept as a lower bound, so that a wait that is answered costs nothing to
cancel; a bound that has become too low costs one needless look.

A loop (`loop.py`) drives it in rounds: it asks `due`, waits for its selector until then, calls the data of
each key that is ready, and then `step`.

Time is that of a clock that can be put forward: when nobody is left to end a wait, `jump` lets its timeout
pass at once.  A gate is asked about each request of a labelled client before it is applied: see `_gate`.  To
those who look on (`reporter`) everything is told as events.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, LeapingClock
from pytest_elastic.events import Sink
from pytest_elastic.pristine import selectors, socket
from pytest_elastic.store._connection import Connection, Door
from pytest_elastic.store._gate import Ending, Gate, Request
from pytest_elastic.store._handle import timeout_error
from pytest_elastic.store._operations import OPERATIONS, Effect
from pytest_elastic.store._reporter import FAILED, Reporter
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._transport import Transport
from pytest_elastic.store._wire import HELD, INSPECT, REQUESTS, pack_answer, pack_error, pack_exit

_QUIET = 0.005  # Seconds with nothing to do, after which what was noted is told.
_MOMENT = 2.0  # Seconds for the client whose wait was ended by a jump.

Act = Callable[[], None]


class Service:
    """Serves one state.  All methods belong to one thread.

    Args:
        state: the store's data and waiters.
        gate: see `pass_to`.
        close: closes the server, for a gate that hangs up.
        selector: that of a loop; its own if none is given.

    Attributes:
        reporter: who is told of each request and wait; `None` for nobody.
        clock: that of the timeouts.
        gate: who is asked about requests, `None` for nobody; `pass_to` changes it.
        transport: the connections.
    """

    def __init__(
        self,
        state: StoreState,
        gate: Gate | None = None,
        close: Act = lambda: None,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self.state = state
        self.reporter: Reporter | None = None
        self.clock = LeapingClock()
        self._rows = {operation.code: (operation, REQUESTS[name]) for name, operation in OPERATIONS.items()}
        self._methods: dict[str, Callable[..., Any]] = {name: getattr(state, name) for name in OPERATIONS}
        self.transport = Transport(self, self._rows, selector)
        self._close_server = close
        self._blocked: dict[Waiter, Connection] = {}
        self._counts: Counter[Hashable] = Counter()
        self._next = math.inf
        self.pass_to(gate)

    def report_to(self, sink: Sink) -> None:
        """Tell of each request and wait from now on."""
        self.reporter = Reporter(sink, self.state, self._blocked)

    def add_door(self, end: socket.socket, label: Hashable) -> None:
        """Serve the client at the other end of this socket pair."""
        self.transport.add(Door(end, label))

    def drop(self, label: Hashable) -> None:
        """Forget all connections with this label."""
        for connection in list(self.transport.connections.values()):
            if connection.label == label:
                self.transport.part(connection)
        if self.gate is not None:
            self.gate.left(label)
        self.transport.go_on()

    # A round.

    def due(self) -> float:
        """The moment of the monotonic clock at which `step` has something to do, `inf` for never."""
        due = self._next - self.clock.ahead
        if self.transport.due < due:
            due = self.transport.due
        if self.gate is not None:
            due = min(due, self.gate.due())
        if self.reporter is not None and self.reporter.noted:
            due = min(due, SYSTEM_CLOCK.monotonic() + _QUIET)
        return due

    def step(self, idle: bool = True) -> None:
        """Do what is due; `idle` where nothing was ready in this round."""
        if idle and self.reporter is not None:
            self.reporter.tell()
        if self.transport.due < math.inf:
            self.transport.expire()
        if self._next < math.inf and self.clock.monotonic() >= self._next:
            self._expire()
            self.transport.go_on()
        if self.gate is not None and self.gate.due() <= (now := SYSTEM_CLOCK.monotonic()):
            self.gate.tick(now)
            self.transport.go_on()

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
        for connection in self._blocked.values():
            connection.spared = self.clock.monotonic() + _MOMENT
        self._expire(nearest)
        self.transport.go_on()

    # Operations.

    def request(self, connection: Connection, frame: bytes) -> None:
        """Apply a request, or ask the gate about it."""
        operation, layout = self._rows[frame[4]]
        arguments = layout.unpack(frame)
        request = Request(connection, operation, arguments)
        if operation.blocks:
            request.seconds, request.alarm = arguments.pop(0), arguments.pop(0)
            if operation.declares:
                request.writers, request.may_timeout = arguments.pop(), arguments.pop()
        if self.gate is None or connection.label is None:
            self._apply(request)
            return
        if connection.client is None:
            connection.client = self._counts[connection.label]
            self._counts[connection.label] += 1
        request.client, connection.request = connection.client, request
        connection.keep(True)
        self.gate.asked(request)
        if connection.kept:
            self.transport.send(connection, HELD)

    def _apply(self, request: Request) -> None:
        """Apply a request, answer it, and answer those whom it wakes."""
        connection, name = request.connection, request.operation.name
        reply = None
        try:
            if request.instead is None:
                answer = self._methods[name](*request.arguments)
            else:
                answer = request.instead(self.state)
            if type(answer) is not Waiter:
                reply = pack_answer(REQUESTS[name], answer)
        except Exception as error:  # It is the caller's, whatever it is: the others must go on.
            answer, reply = FAILED, pack_error(error)
        waits = type(answer) is Waiter and request.seconds > 0
        if self.gate is not None and connection.label is not None:
            self._tell_gate(request, answer if waits else None)
        if self.reporter is not None and (not waits or request.operation.effect is Effect.MEET):
            self.reporter.called(request, answer)
        if waits:
            self._hold(request, answer)
        elif reply is None:
            reply = self._turn_down(answer, request.seconds)
        if reply is not None:
            self.transport.send(connection, reply)
        if self.state.woken:
            self._wake()

    def _hold(self, request: Request, waiter: Waiter) -> None:
        """Let the connection wait."""
        connection = request.connection
        waiter.client = connection.label
        connection.hold(waiter, self.clock.monotonic(), request.seconds)
        connection.ahead = self.clock.ahead
        self._blocked[waiter] = connection
        if self.reporter is not None:
            self.reporter.waits(request, waiter)
        if request.timeless:
            connection.deadline = math.inf
        self._next = min(self._next, connection.deadline)

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
                if not self.transport.send(connection, reply):
                    self.state.abandon(waiter)

    # Waits end.

    def _expire(self, jumped: float = -math.inf) -> None:
        """End the waits whose time is over; `jumped` is the deadline of those who are not spared."""
        now = self.clock.monotonic()
        over = [(w, c) for w, c in self._blocked.items() if c.due <= now or c.deadline <= jumped]
        for waiter, connection in over:
            if connection.waiter is waiter:
                self._end_wait(connection, waiter, now, connection.deadline <= jumped)
        self._next = min((connection.due for connection in self._blocked.values()), default=math.inf)

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
        self.transport.send(connection, pack_error(timeout_error(missing, connection.timeout, elapsed)))

    def _ended(self, connections: list[Connection], how: Ending) -> None:
        """Their waits are over."""
        for connection in connections:
            connection.release()
        if self.reporter is not None:
            self.reporter.ended(connections, how)
        for connection in connections:
            if connection.request is not None:
                self._forget(connection, how)

    def parted(self, connection: Connection) -> None:
        """A client has gone; what it was about to get goes to the next one."""
        waiter = connection.waiter
        if waiter is not None:
            del self._blocked[waiter]
            self._ended([connection], "gone")
            self.state.abandon(waiter)
            self._wake()
        elif self.reporter is not None:
            self.reporter.left(connection)
        self._forget(connection, "gone")  # It was kept.

    # Inspections.

    def inspect(self, label: Hashable) -> None:
        """Ask a client that waits what else in its process may go on; the reporter tells what it says."""
        its = [one for one in self._blocked.values() if one.label == label]
        if its:  # The last one: an earlier one may be that of a call that was interrupted.
            self.transport.send(max(its, key=lambda one: abs(one.whose[1])), INSPECT)

    def inspected(self, connection: Connection, values: list[Any]) -> None:
        """Tell what a client says that was asked so."""
        if self.reporter is not None:
            self.reporter.inspected(connection, values)

    # The gate.

    def pass_to(self, gate: Gate | None) -> None:
        """Ask this gate from the next request on."""
        self.gate = gate
        if gate is not None:
            gate.keeper = self
        for connection in self.transport.connections.values():
            connection.client = None
        self._counts.clear()

    def rested(self, label: Hashable) -> None:
        """Tell the gate that this client asks for nothing more until it is told to."""
        if self.gate is not None:
            self.gate.rested(label)
            self.transport.go_on()

    def let(self, request: Request) -> None:
        self._let_go(request)
        self._apply(request)

    def fail(self, request: Request, error: Exception) -> None:
        self._reply(request, pack_error(error))

    def end_client(self, request: Request, code: int) -> None:
        self._reply(request, pack_exit(code))

    def expire(self, request: Request) -> None:
        connection = request.connection
        if connection.request is request and connection.waiter is not None:
            self._end_wait(connection, connection.waiter, self.clock.monotonic())

    def time(self, request: Request) -> None:
        connection = request.connection
        if connection.request is request and connection.waiter is not None:
            request.timeless = False
            connection.deadline = connection.started + connection.timeout
            self._next = min(self._next, connection.deadline)

    def hang_up(self) -> None:
        for connection in list(self.transport.connections.values()):
            self.transport.part(connection)
        self._close_server()

    def _tell_gate(self, request: Request, waiter: Waiter | None) -> None:
        """It was applied, and waits if there is a waiter."""
        assert self.gate is not None
        request.blocked = waiter is not None
        if waiter is not None:
            request.missing = self.state.missing(waiter)
            request.connection.request = request
        self.gate.applied(request, request.blocked)

    def _reply(self, request: Request, frame: bytes) -> None:
        """Answer a request that is kept or blocked with this instead."""
        connection: Connection = request.connection
        if connection.request is not request:
            return
        waiter = connection.waiter
        if waiter is not None:
            del self._blocked[waiter]
            self._ended([connection], "gone")
            self.state.abandon(waiter)
        self._let_go(request)
        self.transport.send(connection, frame)

    def _let_go(self, request: Request) -> None:
        connection: Connection = request.connection
        if connection.request is not None:
            connection.request = None
            connection.keep(False)

    def _forget(self, connection: Connection, how: Ending) -> None:
        request, connection.request = connection.request, None
        if request is not None and self.gate is not None:
            self.gate.ended(request, how)
