"""What a served store tells those who look on: each request, each wait, as events in the store's one order.

A connection whose label is a number is a rank's; all others are told of as nobody's (`rank=None`).  The
event of a request follows what it did and comes before those of the waits that it ended.

*Theory of operation.*  Making an event costs more than serving some requests, and nobody needs it before so
many requests are blocked that something may be wrong.  So what happens is noted as a row of values, and told
when that many are blocked (`patience`), when the service has had nothing to do for a moment, when somebody
asks, or when there are very many rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import BarrierJoined, ClientLeft, Event, Sink, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.store._connection import Connection
from pytest_elastic.store._state import StoreState, Waiter

_NUM_MEMBERS = "/num_members"
_JOINING = frozenset({"add", "arrive", "barrier"})
_FAILED = object()
_MOST = 65_536

Row = tuple[Any, ...]


class Reporter:
    """Makes a service's events and gives them to a sink, in the serving thread.

    Args:
        sink: what it raises, it raises in the middle of the service.

    Attributes:
        patience: how many requests may be blocked before all is told at once; 0 tells all as it happens.
        noted: what was not told yet: what kind of thing, and its values.  Nothing in a row is of a type that
            the collector of garbage would have to look into again and again.
    """

    failed = _FAILED
    """What `called` takes for the answer of a request that raised."""

    def __init__(self, sink: Sink, state: StoreState) -> None:
        self.patience = 0
        self.noted: deque[Row] = deque()
        self._sink, self._state = sink, state
        self._heard: set[int] = set()
        self._blocked = 0

    def tell(self) -> None:
        """Tell what was noted."""
        noted = self.noted
        while noted:
            kind, *values = noted.popleft()
            for event in _MAKERS[kind](*values):
                self._sink(event)

    def called(self, connection: Connection, name: str, arguments: Sequence[Any], answer: object) -> None:
        """A request was carried out; one that is blocked is told of by `waits`."""
        number = connection.number
        self._heard.add(number)
        changed, numbers = answer is not _FAILED, None
        if name in _JOINING and changed:  # Values are not kept, only numbers.
            numbers = (answer if name != "barrier" else self._come(arguments[0])), *arguments[1:]
        elif name == "delete_key":
            changed = answer is True
        elif name == "compare_set":
            changed = answer == arguments[2]
        keys = arguments[0] if arguments else ()
        if type(keys) is list:
            keys = tuple(keys)
        self._note((_CALLS, _now(), connection.label, number, name, keys, changed, numbers))

    def waits(self, connection: Connection, waiter: Waiter, known: tuple[bool, Sequence[int], bool]) -> None:
        """A request is blocked.

        Args:
            known: whether its caller counts on a timeout, who writes the keys, and whether `called` was told.
        """
        self._blocked += 1
        self._heard.add(connection.number)
        keys, (may_timeout, writers, told) = tuple(waiter.keys), known
        missing = tuple(waiter.pending)  # They are registered in the order asked.
        writers = tuple(writers) if len(writers) == len(keys) else ()
        whose = _now(), connection.label, connection.number, waiter.name
        self._note((_BEGINS, *whose, keys, missing, connection.timeout, may_timeout, writers, told))

    def ended(self, connection: Connection, how: str) -> None:
        """A wait has ended."""
        self._blocked -= 1
        self._note((_ENDS, _now(), connection.label, connection.number, how))

    def left(self, connection: Connection) -> None:
        """A connection that did not wait is gone; one that never asked for anything is not spoken of."""
        if connection.number in self._heard:
            self._note((_LEAVES, _now(), connection.label, connection.number))

    def _note(self, row: Row) -> None:
        self.noted.append(row)
        if self._blocked >= self.patience or len(self.noted) >= _MOST:
            self.tell()

    def _come(self, key: str) -> object:
        """How many have come to a barrier of the store's own."""
        return self._state.get(f"{key}{_NUM_MEMBERS}")


_now = SYSTEM_CLOCK.monotonic


def _rank(label: Hashable) -> int | None:
    return label if type(label) is int else None


def _calls(at: float, label: Hashable, number: int, *call: Any) -> Iterator[Event]:
    name, keys, changed, numbers = call
    rank = _rank(label)
    yield StoreCalled(at, rank, number, name, (keys,) if type(keys) is str else tuple(keys), changed)
    if numbers is None or not (name == "barrier" or keys.endswith(_NUM_MEMBERS)):
        return
    # Torch's own barrier adds 1 to such a key too; it says nothing of how many are to come.
    world_size = 0 if name == "add" else numbers[-1]
    yield BarrierJoined(at, rank, number, keys.removesuffix(_NUM_MEMBERS), world_size, int(numbers[0]))


def _begins(at: float, label: Hashable, number: int, *wait: Any) -> Iterator[Event]:
    *fields, told = wait
    if not told:
        yield StoreCalled(at, _rank(label), number, fields[0], fields[1], True)
    yield WaitBegan(at, _rank(label), number, *fields)


def _ends(at: float, label: Hashable, number: int, how: str) -> Iterator[Event]:
    yield WaitEnded(at, _rank(label), number, how)


def _leaves(at: float, label: Hashable, number: int) -> Iterator[Event]:
    yield ClientLeft(at, _rank(label), number)


_CALLS, _BEGINS, _ENDS, _LEAVES = range(4)
_MAKERS: tuple[Callable[..., Iterator[Event]], ...] = (_calls, _begins, _ends, _leaves)
