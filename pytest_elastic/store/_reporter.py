"""Events of a served store: each request, each wait, in the store's one order.

A connection whose label is a number is a rank's; all others are told of as nobody's (`rank=None`).  The
event of a request follows what it did and comes before those of the waits that it ended.

*Theory of operation.*  Making an event, and looking at it, costs more than serving some requests, and nobody
needs it before so many requests are blocked that something may be wrong.  So the fields of an event are
noted, and it is told when that many are blocked (`patience`), when the service has had nothing to do for a
moment, when somebody asks, or when there is very much to tell.  No values are kept but numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    RankInspected,
    Sink,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.store._connection import Connection
from pytest_elastic.store._gate import Request
from pytest_elastic.store._meetings import joined, members_of_call
from pytest_elastic.store._operations import Effect, barrier_keys
from pytest_elastic.store._state import StoreState, Waiter

FAILED = object()
"""What `called` takes for the answer of a request that raised."""

_MOST = 65_536


class Reporter:
    """Makes a service's events and gives them to a sink, in the serving thread.

    Args:
        sink: what it raises, it raises in the middle of the service.
        state: the store's.
        blocked: the service's requests that are blocked.

    Attributes:
        patience: how many requests may be blocked before all is told at once; 0 tells all as it happens.
        noted: what was not told yet: the kind of each event, or what makes it, and its fields.
    """

    def __init__(self, sink: Sink, state: StoreState, blocked: Collection[Waiter]) -> None:
        self.patience = 0
        self.noted: deque[tuple[Any, ...]] = deque()
        self._sink, self._state, self._blocked = sink, state, blocked
        self._heard: set[int] = set()

    def tell(self) -> None:
        """Tell what was noted."""
        noted, sink = self.noted, self._sink
        while noted:
            kind, *fields = noted.popleft()
            sink(kind(*fields))

    def called(self, request: Request, answer: object) -> None:
        """A request was carried out; one that is blocked is told of by `waits`."""
        operation, arguments = request.operation, request.arguments
        label, number = request.connection.whose
        rank, at = label if type(label) is int else None, _now()
        keys = operation.keys(arguments)
        changed = answer is not FAILED and operation.changed(arguments, answer)
        self._heard.add(number)
        self.noted.append((StoreCalled, at, rank, number, operation.name, keys, changed))
        prefix = operation.barrier(keys) if changed else ""
        if prefix:
            if operation.effect is Effect.MEET:
                answer = int(self._state.peek(barrier_keys(prefix)[0]) or 0)
            # An `add` to such a key, as torch's barrier makes it, says nothing of how many are to come.
            size = 0 if operation.effect is Effect.UPDATE else arguments[-1]
            self.noted.append((BarrierJoined, at, rank, number, prefix, size, answer))
        self._note_meeting(request, at, rank)
        self._tell_if_due()

    def waits(self, request: Request, waiter: Waiter) -> None:
        """A request is blocked."""
        label, number = request.connection.whose
        rank, at = label if type(label) is int else None, _now()
        self._heard.add(number)
        name, keys = request.operation.name, tuple(waiter.keys)
        if request.operation.effect is Effect.MEET:
            name = "wait"  # It was told of as a barrier: it had something to do before.
        else:
            own = request.operation.keys(request.arguments)
            self.noted.append((StoreCalled, at, rank, number, name, own, True))
        # They are registered in the order asked.
        missing = keys if len(waiter.pending) == len(keys) else tuple(waiter.pending)
        writers = tuple(request.writers) if len(request.writers) == len(keys) else ()
        if request.operation.effect is Effect.EXCHANGE:
            self._note_meeting(request, at, rank)
            writers = self._awaited(request)
        known = request.seconds, request.may_timeout, writers, request.alarm
        self.noted.append((WaitBegan, at, rank, number, name, keys, missing, *known))
        self._tell_if_due()

    def _note_meeting(self, request: Request, at: float, rank: int | None) -> None:
        """Who comes to a meeting with a call has joined a collective."""
        if request.operation.effect not in (Effect.ANNOUNCE, Effect.EXCHANGE):
            return
        name, _, place, *needs, call, _ = request.arguments
        if place >= 0 and not call.startswith(b"\n"):  # Else it is a step of a call that was told of.
            waits = needs not in ([], [[]])
            self.noted.append((joined, (at, rank, request.connection.whose[1]), name, place, call, waits))

    def _awaited(self, request: Request) -> tuple[int, ...]:
        """The ranks whom a meeting's wait needs, where it is known who these are."""
        name, _, place, needs, call, _ = request.arguments
        members = members_of_call(call if place >= 0 else self._state.meeting_call(name))
        ranks = tuple(members[need] for need in needs) if members else ()
        return () if -1 in ranks else ranks

    def ended(self, connections: Iterable[Connection], how: str) -> None:
        """The waits of these have ended."""
        at = _now()
        self.noted.extend([(WaitEnded, at, _rank(one), one.whose[1], how) for one in connections])
        self._tell_if_due()

    def left(self, connection: Connection) -> None:
        """A connection that did not wait is gone; one that never asked for anything is not spoken of."""
        number = connection.whose[1]
        if number in self._heard:
            self.noted.append((ClientLeft, _now(), _rank(connection), number))
            self._tell_if_due()

    def inspected(self, connection: Connection, values: list[Any]) -> None:
        """A client that waits has answered an `INSPECT`."""
        self.tell()
        alarm, cpu_alarm, handlers, writers, strangers = values
        rank = _rank(connection)
        self._sink(RankInspected(_now(), rank, alarm, cpu_alarm, handlers, tuple(writers), tuple(strangers)))

    def _tell_if_due(self) -> None:
        if len(self._blocked) >= self.patience or len(self.noted) >= _MOST:
            self.tell()


_now = SYSTEM_CLOCK.monotonic


def _rank(connection: Connection) -> int | None:
    label = connection.whose[0]
    return label if type(label) is int else None
