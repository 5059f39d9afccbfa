"""What a served store tells those who look on: each request, each wait, as events in the store's one order.

A connection whose label is a number is a rank's; all others are told of as nobody's (`rank=None`).  The
event of a request follows what it did and comes before those of the waits that it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import BarrierJoined, ClientLeft, Sink, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.store._connection import Connection
from pytest_elastic.store._state import StoreState, Waiter

_NUM_MEMBERS = "/num_members"
_FAILED = object()


class Reporter:
    """Makes a service's events and gives them to a sink, in the serving thread.

    Args:
        sink: what it raises, it raises in the middle of the service.
    """

    failed = _FAILED
    """What `called` takes for the answer of a request that raised."""

    def __init__(self, sink: Sink, state: StoreState) -> None:
        self._sink, self._state = sink, state
        self._heard: set[int] = set()

    def called(self, connection: Connection, name: str, arguments: Sequence[Any], answer: object) -> None:
        """A request was carried out, or is blocked."""
        self._heard.add(connection.number)
        first = arguments[0] if arguments else ()
        keys = (first,) if type(first) is str else tuple(first)
        changed = answer is not _FAILED
        if name == "delete_key":
            changed = answer is True
        elif name == "compare_set":
            changed = answer == arguments[2]
        at, rank = SYSTEM_CLOCK.monotonic(), _rank(connection)
        self._sink(StoreCalled(at, rank, connection.number, name, keys, changed))
        if name in _JOINING and changed:
            self._joined(connection, name, arguments, answer)

    def waits(self, connection: Connection, waiter: Waiter, known: tuple[bool, Sequence[int]]) -> None:
        """The request just told of is blocked; `known` is what its caller said of the wait."""
        missing = self._state.missing(waiter)
        may_timeout, writers = known
        self._sink(
            WaitBegan(
                SYSTEM_CLOCK.monotonic(),
                _rank(connection),
                connection.number,
                waiter.name,
                tuple(waiter.keys),
                missing,
                connection.timeout,
                may_timeout,
                tuple(writers) if len(writers) == len(waiter.keys) else (),
            )
        )

    def ended(self, connection: Connection, how: str) -> None:
        """A wait has ended."""
        self._sink(WaitEnded(SYSTEM_CLOCK.monotonic(), _rank(connection), connection.number, how))

    def left(self, connection: Connection) -> None:
        """A connection that did not wait is gone; one that never asked for anything is not spoken of."""
        if connection.number in self._heard:
            self._sink(ClientLeft(SYSTEM_CLOCK.monotonic(), _rank(connection), connection.number))

    def _joined(self, connection: Connection, name: str, arguments: Sequence[Any], answer: object) -> None:
        key, *numbers = arguments
        count: Any = answer
        if name == "barrier":
            count = self._state.get(f"{key}{_NUM_MEMBERS}")
        elif not key.endswith(_NUM_MEMBERS):
            return
        # Torch's own barrier adds 1 to such a key too; it says nothing of how many are to come.
        world_size = 0 if name == "add" else numbers[-1]
        at, rank, prefix = SYSTEM_CLOCK.monotonic(), _rank(connection), key.removesuffix(_NUM_MEMBERS)
        self._sink(BarrierJoined(at, rank, connection.number, prefix, world_size, int(count)))


_JOINING = frozenset({"add", "arrive", "barrier"})


def _rank(connection: Connection) -> int | None:
    label = connection.label
    return label if type(label) is int else None
