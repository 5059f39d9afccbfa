"""A service with a gate: see `_gate` for the seam."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, cast

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.store._connection import Connection
from pytest_elastic.store._gate import Ending, Gate, Request
from pytest_elastic.store._service import Service
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._wire import HELD, REQUESTS, Layout, pack_error, pack_exit


class GatedService(Service):
    """Serves one state through a gate, which is asked about each request of a labelled client.

    Attributes:
        gate: who is asked, `None` for nobody; `pass_to` changes it.
    """

    def __init__(self, state: StoreState, gate: Gate | None, close: Callable[[], None]) -> None:
        super().__init__(state)
        self._close_server = close
        self._open: dict[Connection, Request] = {}  # Kept, or blocked.
        self._numbers: dict[Connection, int] = {}
        self._counts: Counter[Hashable] = Counter()
        self.pass_to(gate)

    def pass_to(self, gate: Gate | None) -> None:
        """Ask this gate from the next request on."""
        self.gate = gate
        if gate is not None:
            gate.keeper = self
        self._numbers.clear()
        self._counts.clear()

    def poll(self, timeout: float) -> None:
        due = math.inf if self.gate is None else self.gate.due()
        if due < math.inf:
            timeout = max(0.0, min(timeout, due - SYSTEM_CLOCK.monotonic()))
        super().poll(timeout)
        if self.gate is not None and self.gate.due() <= (now := SYSTEM_CLOCK.monotonic()):
            self.gate.tick(now)
            self._go_on()

    def drop(self, label: Hashable) -> None:
        super().drop(label)
        if self.gate is not None:
            self.gate.left(label)
            self._go_on()

    def rested(self, label: Hashable) -> None:
        """Tell the gate."""
        if self.gate is not None:
            self.gate.rested(label)
            self._go_on()

    # What the gate may have done.

    def let(self, request: Request) -> None:
        self._let_go(request)
        self._pass(request)

    def fail(self, request: Request, error: Exception) -> None:
        self._reply(request, pack_error(error))

    def end_client(self, request: Request, code: int) -> None:
        self._reply(request, pack_exit(code))

    def expire(self, request: Request) -> None:
        connection = request.connection
        if self._open.get(connection) is request and connection.waiter is not None:
            self._end_wait(connection, connection.waiter, self.clock.monotonic())

    def time(self, request: Request) -> None:
        connection = request.connection
        if self._open.get(connection) is request and connection.waiter is not None:
            request.timeless = False
            connection.deadline = connection.started + connection.timeout
            self._next = min(self._next, connection.deadline)

    def hang_up(self) -> None:
        for connection in list(self._connections.values()):
            self._part(connection)
        self._close_server()

    def _reply(self, request: Request, frame: bytes) -> None:
        connection: Connection = request.connection
        if self._open.get(connection) is not request:
            return
        waiter = connection.waiter
        if waiter is not None:
            del self._blocked[waiter]
            self._ended([connection], "gone")
            self.state.abandon(waiter)
        self._let_go(request)
        self._answer(connection, frame)

    def _let_go(self, request: Request) -> None:
        connection: Connection = request.connection
        if self._open.pop(connection, None) is not None:
            connection.keep(False)

    # What the service does otherwise for a gated client.

    def _take(self, connection: Connection, layout: Layout, apply: Callable[..., Any], frame: bytes) -> None:
        gate = self.gate
        if gate is None or connection.label is None:
            super()._take(connection, layout, apply, frame)
            return
        arguments = layout.unpack(frame)
        seconds, alarm = (arguments.pop(0), arguments.pop(0)) if layout.blocks else (0.0, 0.0)
        request = Request(connection, self._number(connection), layout.name, arguments, seconds, alarm)
        self._open[connection] = request
        connection.keep(True)
        gate.asked(request)
        if connection.kept:
            self._answer(connection, HELD)

    def _pass(self, request: Request) -> None:
        connection, layout = request.connection, REQUESTS[request.name]
        times = [request.seconds, request.alarm] if layout.blocks else []
        frame = layout.pack([*times, *request.arguments])
        super()._take(connection, layout, partial(self._apply, request), frame)
        if request.timeless and connection.waiter is not None:
            connection.deadline = math.inf

    def _apply(self, request: Request, *arguments: Any) -> Any:
        try:
            instead = request.instead
            answer = instead(self.state) if instead else getattr(self.state, request.name)(*arguments)
            request.blocked = type(answer) is Waiter and request.seconds > 0
            return answer
        finally:
            if request.blocked:
                request.missing = self.state.missing(cast(Waiter, answer))
                self._open[request.connection] = request
            if self.gate is not None:
                self.gate.applied(request, request.blocked)

    def _ended(self, connections: list[Connection], how: Ending) -> None:
        super()._ended(connections, how)
        for connection in connections:
            self._forget(connection, how)

    def _part(self, connection: Connection) -> None:
        super()._part(connection)
        self._numbers.pop(connection, None)
        self._forget(connection, "gone")  # It was kept.

    def _forget(self, connection: Connection, how: Ending) -> None:
        request = self._open.pop(connection, None) if self._open else None
        if request is not None and self.gate is not None:
            self.gate.ended(request, how)

    def _number(self, connection: Connection) -> int:
        if connection not in self._numbers:
            self._numbers[connection] = self._counts[connection.label]
            self._counts[connection.label] += 1
        return self._numbers[connection]
