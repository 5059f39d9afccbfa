"""The store as a simulated rank sees it."""

from __future__ import annotations

from typing import Any, Protocol

from pytest_elastic.simulator._scheduler import Kind
from pytest_elastic.store import Asked, Handle


class Seat(Protocol):
    """Where a rank's operations go."""

    seconds: float
    """How many virtual seconds the next one may wait."""

    may_timeout: bool
    """Whether its rank counts on a timeout then."""

    def reach(self, kind: Kind, name: str, arguments: tuple[Any, ...]) -> Any:
        """Do one when it is this rank's turn; its answer."""


class SimStore(Handle):
    """A rank's way into the simulated store: every operation is a scheduling point.

    Good for the rank that it was given to, while its function runs; other ranks have their own.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat

    def clone(self) -> SimStore:
        """A handle on the same data with its own timeout, equal at first."""
        other = SimStore(self._seat)
        other.set_timeout(self._timeout)
        return other

    def _call(self, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        if arguments and type(arguments[0]) is list:
            arguments = tuple(map(tuple, arguments))  # Steps can be hashed.
        return self._seat.reach("call", name, arguments)

    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        asked = arguments[0]
        if isinstance(asked, list):
            arguments = (tuple(asked),)
        self._seat.seconds, self._seat.may_timeout = seconds, type(asked) is Asked and asked.may_timeout
        return self._seat.reach("call", name, arguments)
