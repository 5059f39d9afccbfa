"""Fair scheduling of executions that do not end, and the detection of livelocks.

A rank that polls (`while not store.check(...)`) starves the ranks that it waits for, under a schedule that
lets it.  That is the schedule's fault, not the program's: after `UNFAIR` steps the ranks take turns.  A
program that does not end then either is in a livelock (Musuvathi, Qadeer: Fair Stateless Model Checking, PLDI
2008).

A livelock is detected when the same state of the store and of all ranks comes back again and again.  A rank
that read the clock meanwhile may wait for a point in time, so the clock moves forward first, in ever larger
leaps.  A program whose state never repeats is called a livelock after `FAIR` steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING

from pytest_elastic.scheduling import Decision

if TYPE_CHECKING:
    from pytest_elastic.simulator._run import SimulatedRun

UNFAIR = 10_000
FAIR = 100_000
_REPEATS = 50
_LEAPS = 30  # From a millisecond to twelve days.


class FairScheduler:
    """Round-robin scheduler for the fair part of an execution; ends the run when it detects a livelock."""

    def __init__(self, run: SimulatedRun) -> None:
        self._run = run
        self._seen: Counter[Hashable] = Counter()
        self._leaps = 0
        self._steps = 0

    def choose(self, decision: Decision) -> int:
        steps, last = decision.steps, decision.last
        self._steps += 1
        choice = next((index for index, step in enumerate(steps) if step.rank > last), 0)
        if (steps[choice].rank <= last and self.repeats()) or self._steps > FAIR:
            self._run.execution.livelocked = tuple(self._run.execution.steps[-_REPEATS:])
            self._run.over = True
        return choice

    def repeats(self) -> bool:
        """Whether this state has come back too often."""
        run = self._run
        state = run.state.digest(), tuple((rank.status, rank.step) for rank in run.ranks)
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
