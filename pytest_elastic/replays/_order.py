"""Orders of store operations, and the interceptor that forces one: requests are held until their turn.

*Theory of operation.*  A party is a connection of a rank.  Its request is held when it comes; `take_step` of
a kind of order lets the next one go, if that is there.  A party that asks for more than the order knows of
waits for the order's end, after which the gate stands open.

A wait ends by the write that ends it; else when the order says, not by the machine's clock.  Where nothing
but its timeout can end it, it first has its deadline back for a while, so that the hang detector sees this
hang, and lets the time pass by itself.  Nothing more is done until the rank that has timed out shows what it
makes of it, so that failures come in their order, too.

A divergence is raised in the rank that does something else than the order says.  The others' requests fail,
too, as if a rank had been lost: nobody hangs.  So they do if the party whose turn it is has ended, or does
not come in time.
"""

from __future__ import annotations

import abc
import math
import zlib
from collections.abc import Hashable
from functools import partial
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError, DivergenceError
from pytest_elastic.faults import FaultPlan
from pytest_elastic.replays._interceptors import Interceptor
from pytest_elastic.store import Ending, Gate, Request

Party = tuple[int, int]  # A rank and the number of its connection; rank -1 is the launcher.
PATIENCE = 10.0  # Seconds that a party may take for its next request, while others are held.
_JUMP = 1.5  # Seconds for a hang to be seen, before its first wait is ended.
_REST = 1.0  # Seconds for a rank that has timed out to show what it does next.


def name_party(party: Party) -> str:
    """Rank and connection in words."""
    rank, client = party
    thread = f" (connection {client})" if client else ""
    return f"{'the launcher' if rank < 0 else f'rank {rank}'}{thread}"


def party_of(request: Request) -> Party:
    """Rank and connection of a request."""
    return (request.label if isinstance(request.label, int) else -1), request.client


def mark_of(nodeid: str) -> str:
    """16 bits of a test's name, which are the same for all its parameters, and wherever pytest is run."""
    name = nodeid.partition("[")[0].rpartition("/")[2]
    return f"{zlib.crc32(name.encode('utf-8', 'surrogatepass')) >> 16:04x}"


class Order(Protocol):
    """An order of store operations, recorded or scheduled, that can be forced on ranks."""

    @property
    def faults(self) -> FaultPlan:
        """The faults that were injected, and belong to the order."""

    @property
    def mark(self) -> str:
        """`mark_of` the test that ran; `""` where that is not known."""

    @property
    def nprocs(self) -> int:
        """Number of ranks; 0 where that is not known."""

    def force(self, following: Gate) -> OrderInterceptor:
        """The interceptor that forces it, ahead of another gate.

        Raises:
            ValueError: it cannot be forced: its beginning is missing.
        """


def mismatch(order: Order, nodeid: str, nprocs: int) -> str:
    """Why an order is none of such a test, in words; `""` if it may be one."""
    if order.mark and order.mark != mark_of(nodeid):
        return f"it is of another test than {nodeid}"
    if order.nprocs and order.nprocs != nprocs:
        return f"it is of a run on {order.nprocs} ranks, and here are {nprocs}"
    return ""


class OrderInterceptor(Interceptor, abc.ABC):
    """Base of interceptors that force an order.

    Attributes:
        divergence: what went another way; `None` so far.
        done: number of steps that were taken, of `steps`.
        patience: seconds that a party may take for its next request, while others are held.
        held: requests whose turn has not come.
        blocked: requests that were applied, and wait.
    """

    def __init__(self, steps: int, following: Gate, patience: float = PATIENCE) -> None:
        super().__init__(following)
        self.steps, self.done = steps, 0
        self.divergence: DivergenceError | None = None
        self._follows: Exception = DivergenceError("")  # What all others than the one that diverged are told.
        self.patience = patience
        self.held: dict[Party, Request] = {}
        self._late: list[Request] = []
        self.blocked: dict[Party, Request] = {}
        self._gone: set[int] = set()
        self._timing: Request | None = None  # Has its deadline back, and ends by it.
        self._answered: Party | None = None  # Whose wait has timed out, and who was not heard of since.
        self._look = False
        self._moved = SYSTEM_CLOCK.monotonic()

    # What a kind of order says.

    @abc.abstractmethod
    def expects(self, request: Request) -> bool:
        """Whether the order knows of a further request of this party; may diverge."""

    @abc.abstractmethod
    def take_step(self) -> bool:
        """Take the next step if all that it needs is there; whether it was taken."""

    @abc.abstractmethod
    def upcoming(self) -> tuple[Party, str] | None:
        """Whose turn it is, and the step in words; `None` where that is not known."""

    def allowance(self) -> float:
        """Seconds for the next step, from the last one on."""
        return self.patience

    # The gate.

    def asked(self, request: Request) -> None:
        self._heard_of(*party_of(request))
        if self.divergence is not None:
            self.keeper.fail(request, self._follows)
        elif self.done == self.steps:
            super().asked(request)
        elif self.expects(request):
            self.held[party_of(request)] = request
            self._go_on()
        elif self.divergence is None:
            self._late.append(request)

    def applied(self, request: Request, blocked: bool) -> None:
        if blocked:
            self.blocked[party_of(request)] = request
        super().applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        party = party_of(request)
        for table in (self.blocked, self.held):
            if table.get(party) is request:
                del table[party]
        if how in ("timed out", "jumped") and self._is_going():
            self._answered = party
            self.after(_REST, partial(self._heard_of, *party))
        if self._timing is request:
            self._timing, self._look = None, True
            self.done += 1
        super().ended(request, how)

    def left(self, label: Hashable) -> None:
        self._gone.add(label if isinstance(label, int) else -1)
        super().left(label)
        self.rested(label)
        self._go_on()
        following = self.upcoming() if self._is_going() else None
        if following is not None and following[0][0] in self._gone and self.held:
            self.diverge(f"  {name_party(following[0])} has ended")

    def rested(self, label: Hashable) -> None:
        super().rested(label)
        if self._answered is not None and self._answered[0] == label:
            self._heard_of(*self._answered)
            self._go_on()

    def due(self) -> float:
        if self._look:
            return 0.0
        return min(self._limit(), super().due())

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._look:
            self._look = False
            self._go_on()
        elif self._limit() <= now:
            self.diverge(f"  did not come for {now - self._moved:.1f} s")

    def progress(self) -> str:
        """How far it came, in words."""
        return f"replayed {self.done} of {self.steps} steps in their order"

    def check(self) -> None:
        """For the end of a run in which nothing failed.

        Raises:
            DivergenceError: it diverged, or ended before the order did.
        """
        if self.divergence is not None:
            raise self.divergence
        if self.done < self.steps:
            following = self.upcoming()
            text = f"the replay ended after {self.done} of {self.steps} steps"
            raise DivergenceError(text + (f"; the next one: {following[1]}" if following else ""))

    def _limit(self) -> float:
        """When those that are held have waited for too long; `inf` where none is held."""
        waits = self.held and self._is_going() and self._timing is None
        return self._moved + self.allowance() if waits else math.inf

    def _is_going(self) -> bool:
        return self.done < self.steps and self.divergence is None

    def _heard_of(self, *party: int) -> None:
        if self._answered == party:
            self._answered, self._look = None, True

    # What kinds use.

    def apply(self, request: Request) -> None:
        """Let a held request go; no clock ends it if it has to wait."""
        del self.held[party_of(request)]
        request.timeless = True
        super().asked(request)

    def expire(self, request: Request, by_itself: bool) -> bool:
        """End a wait; whether that has happened.  `by_itself`: leave it to the hang detector for a while."""
        if by_itself:
            self._timing = request
            self.keeper.time(request)
            self.after(_JUMP, partial(self._end, request))
            return False
        self.keeper.expire(request)
        return True

    def _end(self, request: Request) -> None:
        if self._timing is request:
            self.keeper.expire(request)

    def _go_on(self) -> None:
        while self._is_going() and self._timing is None and self._answered is None and self.take_step():
            self.done += 1
            self._moved = SYSTEM_CLOCK.monotonic()
        if self.done == self.steps and self.divergence is None:
            self._open()

    def _open(self) -> None:
        """The order is over: the machine's clock counts again, and nobody is held."""
        for request in list(self.blocked.values()):
            if request.timeless:
                self.keeper.time(request)
        late, self._late = self._late, []
        for request in late:
            super().asked(request)

    def diverge(self, what: str, first: Request | None = None, expected: str = "") -> None:
        """Fail the request that diverged, and then all that are held or wait.

        Args:
            what: happened instead.
            first: the request that diverged, if it was one.
            expected: what was to come, where it is not the next step.
        """
        following = self.upcoming()
        if following and not expected:
            expected = following[1]
        lines = [f"the replay diverged at step {self.done + 1} of {self.steps}"]
        lines += [f"  expected {expected}"] if expected else []
        text = "\n".join([*lines, what])
        self._follows = self.divergence = DivergenceError(text)
        others = [*self.held.values(), *self._late, *self.blocked.values()]
        if first is not None:
            self.keeper.fail(first, self.divergence)
            self._follows = DistStoreError(f"held for a replay that another rank has ended: {text}")
        for request in others:
            if request is not first:
                self.keeper.fail(request, self._follows)
        self.held.clear()
        self._late.clear()
