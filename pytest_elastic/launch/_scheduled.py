"""The order of a token, forced on real ranks: the server is the scheduler.

*Theory of operation.*  When every party that has steps left either waits for a key or has its request held,
nothing more will come by itself, and the enabled steps are known: as in the simulator, the default scheduler
with the token's delays says which one is next.  A step that is no more than a timeout of a wait comes last.
What the ranks did is known by its fingerprint only, at the end.
"""

from __future__ import annotations

from pytest_elastic.faults._forced import PATIENCE, ForcedStage
from pytest_elastic.faults._recording import Entry, How, Party, name_party, party_of
from pytest_elastic.launch._canonical import steps_of
from pytest_elastic.launch._token import Order, print_of
from pytest_elastic.simulator._scheduler import Decision, SparseScheduler
from pytest_elastic.store import Gate, Request


class ScheduleStage(ForcedStage):
    """Forces the order of a token."""

    def __init__(self, order: Order, following: Gate, patience: float = PATIENCE) -> None:
        super().__init__(sum(order.counts.values()), following, patience)
        self._left = dict(order.counts)
        self._parties = sorted(order.counts)
        self._program, self._print = order.program, 0
        self._scheduler = SparseScheduler(order.delays)
        self._last, self._decisions = -1, 0

    def progress(self) -> str:
        other = "" if self._is_the_program() else ", but of another program than the token's"
        return super().progress() + other

    def check(self) -> None:
        super().check()
        if not self._is_the_program():
            self.diverge("  the token was made for a program that did other operations")
            super().check()

    def _is_the_program(self) -> bool:
        """As far as it is known: at the end."""
        return self.done < self.steps or self._print & 0xFFFF == self._program

    def _expects(self, request: Request) -> bool:
        return self._left.get(party_of(request), 0) > 0

    def _next(self) -> tuple[Party, str] | None:
        """One that everybody waits for."""
        for party in self._going():
            if party not in self._held and party not in self._blocked:
                return party, f"{name_party(party)} to do something"
        return None

    def _going(self) -> list[Party]:
        return [party for party in self._parties if self._left[party]]

    def _step(self) -> bool:
        going = self._going()
        if any(party not in self._held and party not in self._blocked for party in going):
            return False
        steps = steps_of(going, set(self._blocked), self._parties)
        choice = self._scheduler.choose(Decision(steps, self._last, self._decisions))
        self._decisions += len(steps) > 1
        step = steps[choice]
        party = self._parties[step.rank]
        self._last = step.rank
        self._left[party] -= 1
        expires = step.kind == "expire"
        request = (self._blocked if expires else self._held)[party]
        how: How = "timed out" if expires else "called"
        self._print = print_of(Entry(*party, how, request.name, tuple(request.keys)), self._print)
        if expires:
            return self._expire(request, by_itself=not self._held)
        self._apply(request)
        return True
