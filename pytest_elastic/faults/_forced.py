"""What all forced orders have in common: requests are held until their turn, and nobody is held for ever.

*Theory of operation.*  A party is a connection of a rank.  Its request is held when it comes; `_step` of a
kind of order says what goes next, if that is there.  A party that asks for more than the order knows of waits
for the order's end, after which the gate stands open.

A wait ends by the write that ends it; else when the order says, not by the machine's clock.  Where nothing
but its timeout can end it, it first has its deadline back for a while, so that whoever looks out for hangs
sees this one, and lets the time pass by itself.  Nothing more is done until the rank that has timed out shows
what it makes of it, so that failures come in their order, too.

A divergence is raised in the rank that does something else than was to come.  The others' requests fail, too,
as if a rank had been lost: nobody hangs.  So they do if the party whose turn it is has ended, or does not
come in time.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable
from functools import partial

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError, DivergenceError
from pytest_elastic.faults._recording import Party, name_party, party_of
from pytest_elastic.faults._stage import Stage
from pytest_elastic.store import Ending, Gate, Request

PATIENCE = 10.0  # Seconds that a party may take for its next request, while others are held.
_JUMP = 1.5  # Seconds for a hang to be seen, before its first wait is ended.
_REST = 1.0  # Seconds for a rank that has timed out to show what it does next.


class ForcedStage(Stage, abc.ABC):
    """Base of forced orders; a kind has `_expects`, `_step` and `_next`.

    Attributes:
        divergence: what went another way; `None` so far.
        done: how many steps were taken, of `steps`.
    """

    def __init__(self, steps: int, following: Gate, patience: float = PATIENCE) -> None:
        super().__init__(following)
        self.steps, self.done = steps, 0
        self.divergence: DivergenceError | None = None
        self._follows: Exception = DivergenceError("")  # What all others than the one that diverged are told.
        self._patience = patience
        self._held: dict[Party, Request] = {}
        self._late: list[Request] = []
        self._blocked: dict[Party, Request] = {}
        self._gone: set[int] = set()
        self._timing: Request | None = None  # Has its deadline back, and ends by it.
        self._answered: Party | None = None  # Whose wait has timed out, and who was not heard of since.
        self._look = False
        self._moved = SYSTEM_CLOCK.monotonic()

    # What a kind of order says.

    @abc.abstractmethod
    def _expects(self, request: Request) -> bool:
        """Whether the order knows of a further request of this party; may diverge."""

    @abc.abstractmethod
    def _step(self) -> bool:
        """Take the next step if all that it needs is there; whether it was taken."""

    @abc.abstractmethod
    def _next(self) -> tuple[Party, str] | None:
        """Whose turn it is, and the step in words; `None` where that is not known."""

    def _allowed(self) -> float:
        """Seconds for the next step, from the last one on."""
        return self._patience

    # The gate.

    def asked(self, request: Request) -> None:
        self._heard_of(*party_of(request))
        if self.divergence is not None:
            self.keeper.fail(request, self._follows)
        elif self.done == self.steps:
            super().asked(request)
        elif self._expects(request):
            self._held[party_of(request)] = request
            self._go_on()
        elif self.divergence is None:
            self._late.append(request)

    def applied(self, request: Request, blocked: bool) -> None:
        if blocked:
            self._blocked[party_of(request)] = request
        super().applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        party = party_of(request)
        for table in (self._blocked, self._held):
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
        following = self._next() if self._is_going() else None
        if following is not None and following[0][0] in self._gone and self._held:
            self.diverge(f"  {name_party(following[0])} has ended")

    def rested(self, label: Hashable) -> None:
        super().rested(label)
        if self._answered is not None and self._answered[0] == label:
            self._heard_of(*self._answered)
            self._go_on()

    def due(self) -> float:
        if self._look:
            return 0.0
        if not self._is_going() or self._timing is not None or not self._held:
            return super().due()
        return min(self._moved + self._allowed(), super().due())

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._look:
            self._look = False
            self._go_on()
        elif self._is_late(now):
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
            following = self._next()
            text = f"the replay ended after {self.done} of {self.steps} steps"
            raise DivergenceError(text + (f"; the next one: {following[1]}" if following else ""))

    def _is_late(self, now: float) -> bool:
        """Whether those that are held have waited for too long."""
        going = self._is_going() and self._timing is None
        return going and bool(self._held) and self._moved + self._allowed() <= now

    def _is_going(self) -> bool:
        return self.done < self.steps and self.divergence is None

    def _heard_of(self, *party: int) -> None:
        if self._answered == party:
            self._answered, self._look = None, True

    # What kinds use.

    def _apply(self, request: Request) -> None:
        """Let a held request go; no clock ends it if it has to wait."""
        del self._held[party_of(request)]
        request.timeless = True
        super().asked(request)

    def _expire(self, request: Request, by_itself: bool) -> bool:
        """End a wait; whether that has happened.  `by_itself`: give a lookout for hangs the time to."""
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
        while self._is_going() and self._timing is None and self._answered is None and self._step():
            self.done += 1
            self._moved = SYSTEM_CLOCK.monotonic()
        if self.done == self.steps and self.divergence is None:
            self._open()

    def _open(self) -> None:
        """The order is over: the machine's clock counts again, and nobody is held."""
        for request in list(self._blocked.values()):
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
        following = self._next()
        if following and not expected:
            expected = following[1]
        lines = [f"the replay diverged at step {self.done + 1} of {self.steps}"]
        lines += [f"  expected {expected}"] if expected else []
        text = "\n".join([*lines, what])
        self._follows = self.divergence = DivergenceError(text)
        others = [*self._held.values(), *self._late, *self._blocked.values()]
        if first is not None:
            self.keeper.fail(first, self.divergence)
            self._follows = DistStoreError(f"held for a replay that another rank has ended: {text}")
        for request in others:
            if request is not first:
                self.keeper.fail(request, self._follows)
        self._held.clear()
        self._late.clear()
