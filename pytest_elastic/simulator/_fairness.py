"""Taking turns, and when that gets nowhere: fairness for executions that do not end.

A rank that polls (`while not store.check(...)`) starves those that it waits for, under a schedule that lets
it.  That is the schedule's fault, not the program's: after `UNFAIR` steps every rank gets its turn.  What
does not end then either is in a livelock (Musuvathi, Qadeer: Fair Stateless Model Checking, PLDI 2008).

It is taken for one when the store and the places of all ranks come back again and again.  A rank that looked
at the clock meanwhile may wait for a moment, so the clock goes forward first, in ever bigger leaps.  A
program that changes something for ever is taken for one after `FAIR` steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING

from pytest_elastic.simulator._scheduler import Decision

if TYPE_CHECKING:
    from pytest_elastic.simulator._run import Run

UNFAIR = 10_000
FAIR = 100_000
_REPEATS = 50
_LEAPS = 30  # From a millisecond to twelve days.


class Turns:
    """The scheduler of the fair part of an execution."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: Counter[Hashable] = Counter()
        self._leaps = 0
        self._steps = 0

    def choose(self, decision: Decision) -> int:
        """The next rank's step; ends the run when it is a livelock."""
        steps, last = decision.steps, decision.last
        self._steps += 1
        choice = next((index for index, step in enumerate(steps) if step.rank > last), 0)
        if (steps[choice].rank <= last and self._repeats()) or self._steps > FAIR:
            self._run.execution.livelocked = tuple(self._run.execution.steps[-_REPEATS:])
            self._run.over = True
        return choice

    def _repeats(self) -> bool:
        """Whether everything has been like this too often."""
        run = self._run
        state = run.state.digest(), tuple((seat.status, seat.step) for seat in run.seats)
        self._seen[state] += 1
        if self._seen[state] < _REPEATS:
            return False
        if not run.asked_time or self._leaps == _LEAPS:
            return True
        run.clock.advance(0.001 * 2**self._leaps)
        self._leaps += 1
        self._seen.clear()
        run.asked_time = False
        return False
