"""The test of the search itself: another algorithm must find the same traces.

`SleepSets` tries every step of every frame that does not sleep.  That visits each trace exactly once, like
`Dpor`, in many more cut executions, and shares no reasoning about races with it.  What they share is the
relation of `_dependence`, and the clocks of `_trace`: a trace that `SleepSets` visits twice, or two
executions of one trace that end differently, are errors of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_elastic.scheduling import Step
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._simulation import RankFunction, Simulation


class SleepSets(Dpor):
    """Tries everything that is not asleep."""

    def first_choices(self, awake: Sequence[int]) -> set[int]:
        return set(awake)

    def find_more(self, steps: Sequence[Step], races: list[int]) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two searches of one program saw.

    Attributes:
        traces: how many the oracle found.
        missing: how many of those `Dpor` did not.
        extra: how many it found that the oracle did not.
        repeated: how many executions repeated a trace, in either.
        executions: of `Dpor` and of the oracle, cut ones included.
    """

    traces: int
    missing: int
    extra: int
    repeated: int
    executions: tuple[int, int]

    @property
    def agree(self) -> bool:
        return not (self.missing or self.extra or self.repeated)


def visits(search: type[Dpor], function: RankFunction, setting: Setting) -> Iterator[tuple[Execution, Dpor]]:
    """Every execution of a search, and the search as it stands after it."""
    with Simulation(function, setting) as simulation:
        scheduler = search(simulation)
        left = True
        while left:
            execution = simulation.run(scheduler)
            scheduler.finish()
            yield execution, scheduler
            left = scheduler.advance()


def compare_searches(function: RankFunction, setting: Setting) -> Comparison:
    """Search a program twice; it must be small, since the oracle is slow."""
    found = []
    for search in (Dpor, SleepSets):
        every = [
            None if execution.cut else scheduler.trace.canonical()
            for execution, scheduler in visits(search, function, setting)
        ]
        found.append((set(every) - {None}, len(every), len(every) - every.count(None)))
    (mine, tries, whole), (other, other_tries, other_whole) = found
    repeated = whole - len(mine) + other_whole - len(other)
    return Comparison(len(other), len(other - mine), len(mine - other), repeated, (tries, other_tries))
