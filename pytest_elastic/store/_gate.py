"""The seam ahead of a served store: a gate is asked before a request is applied, and told what came of it.

*Theory of operation.*  A request of a labelled client is a `Request`.  The server keeps it and asks the gate,
which lets it go through the `Keeper`, at once or later: it is applied (or something else instead), or
it fails, or its client is ended.  Meanwhile its client waits for as long as that takes (it is told that its
request is held), and no deadline runs: a wait's timeout counts from when it is applied.  The gate runs in the
serving thread, and must not block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, Protocol

from pytest_elastic.store._operations import Operation
from pytest_elastic.store._state import StoreState

Ending = Literal["done", "timed out", "jumped", "gone"]


class Request:
    """One operation that a client asked for.

    Attributes:
        connection: for the server.
        operation: its row of the table; `arguments` are its arguments.
        client: which of its owner's connections, from 0, in the order of their first requests.
        seconds: its timeout where it may block; `alarm`: seconds until the client's interval timer goes off,
            0 if none is set.
        may_timeout: whether its caller counts on a timeout; `writers`: who alone writes each of its keys.
        blocked: whether it had to wait when it was applied; `missing` are the keys that were not there.
        timeless: set by the gate: a wait that only `Keeper.expire` ends; see also `Keeper.time`.
        instead: set by the gate: what is done to the state, and answered, in place of the operation.
    """

    # Of the class, since most requests leave them as they are.
    client = 0
    seconds = alarm = 0.0
    may_timeout = blocked = timeless = False
    writers: Sequence[int] = ()
    missing: tuple[str, ...] = ()
    instead: Callable[[StoreState], object] | None = None

    def __init__(self, connection: Any, operation: Operation, arguments: list[Any]) -> None:
        self.connection, self.operation, self.arguments = connection, operation, arguments

    @property
    def label(self) -> Hashable:
        """Whose it is."""
        label: Hashable = self.connection.label
        return label

    @property
    def name(self) -> str:
        """The operation's."""
        return self.operation.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it concerns, in the order asked."""
        return self.operation.keys(self.arguments)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.keys[:8]))})"


class Keeper(Protocol):
    """What a server does with a request that its gate kept, or that is blocked."""

    def let(self, request: Request) -> None:
        """Apply it now."""

    def fail(self, request: Request, error: Exception) -> None:
        """Raise this in the client."""

    def end_client(self, request: Request, code: int) -> None:
        """Have the client's process exit with this code, at once."""

    def expire(self, request: Request) -> None:
        """End a wait that is blocked, as if its timeout had passed."""

    def time(self, request: Request) -> None:
        """Let a timeless wait that is blocked have its deadline, as from its beginning."""

    def hang_up(self) -> None:
        """Close every connection, and the server."""


class Gate(Protocol):
    """Who is asked."""

    keeper: Keeper

    def asked(self, request: Request) -> None:
        """A request came, and is kept until the gate lets it go."""

    def applied(self, request: Request, blocked: bool) -> None:
        """It was applied; `blocked`: it waits now."""

    def ended(self, request: Request, how: Ending) -> None:
        """One that was blocked ended, or (`"gone"`) one that was blocked or kept lost its client.

        The gate may not let others go from within this.
        """

    def left(self, label: Hashable) -> None:
        """This client has ended, and all its connections were dropped."""

    def rested(self, label: Hashable) -> None:
        """This client has reported, and asks for nothing more until it is told to."""

    def due(self) -> float:
        """When `tick` is to be called next, on the monotonic clock; `inf` for never."""

    def tick(self, now: float) -> None:
        """The moment has come."""


class OpenGate:
    """Lets everything through; what special gates build on."""

    keeper: Keeper

    def asked(self, request: Request) -> None:
        self.keeper.let(request)

    def applied(self, request: Request, blocked: bool) -> None:
        pass

    def ended(self, request: Request, how: Ending) -> None:
        pass

    def left(self, label: Hashable) -> None:
        pass

    def rested(self, label: Hashable) -> None:
        pass

    def due(self) -> float:
        return math.inf

    def tick(self, now: float) -> None:
        pass
