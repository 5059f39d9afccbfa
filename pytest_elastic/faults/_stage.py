"""Gates in a row: each decides about one thing and passes the request on to the next."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable
from itertools import count

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.store import Ending, Gate, Keeper, Request


class Stage:
    """A gate that leaves everything to the next one; the last is an `OpenGate`.

    It has timers: `after` calls something later, from the serving thread.
    """

    def __init__(self, following: Gate) -> None:
        self.following = following
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def keeper(self) -> Keeper:
        """The server."""
        return self.following.keeper

    @keeper.setter
    def keeper(self, keeper: Keeper) -> None:
        self.following.keeper = keeper

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call this `seconds` from now."""
        heapq.heappush(self._timers, (SYSTEM_CLOCK.monotonic() + seconds, next(self._numbers), act))

    def asked(self, request: Request) -> None:
        self.following.asked(request)

    def applied(self, request: Request, blocked: bool) -> None:
        self.following.applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        self.following.ended(request, how)

    def left(self, label: Hashable) -> None:
        self.following.left(label)

    def rested(self, label: Hashable) -> None:
        self.following.rested(label)

    def due(self) -> float:
        return min(self._timers[0][0] if self._timers else math.inf, self.following.due())

    def tick(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self.following.due() <= now:
            self.following.tick(now)
