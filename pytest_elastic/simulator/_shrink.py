"""Shrinking of failures to the simplest one of the same kind, and confirmation that they are reproducible.

*Rules.*  A failure is simpler if it has fewer ranks, then fewer rounds, fewer faults, fewer early expiries,
fewer delays, and then smaller ones.  It is of the same kind if its verdict has the same type and, for an
exception, the same place.  Each candidate is run and judged by its execution, not by its schedule.

* Ranks: only if the default schedule does not fail, neither on the smaller group: a function that was written
  for three ranks may fail on two for other reasons.
* Delays: one alone, tried everywhere; else the delays that are left when none can be removed (Zeller,
  Hildebrandt: Simplifying and Isolating Failure-Inducing Input, TSE 2002), or when the last ones are replaced
  by another; else two, three, ... of them, tried everywhere.
* The budget is counted in steps, so that the same failure always shrinks to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from pytest_elastic.faults import Fault, FaultPlan
from pytest_elastic.progress import Progress
from pytest_elastic.scheduling import Delays, SparseScheduler
from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._failures import (
    Nondeterminism,
    RankFailed,
    UncontrolledBlocking,
    Verdict,
    compare,
)
from pytest_elastic.simulator._simulation import RankFunction, Simulation

COME_ONCE = (UncontrolledBlocking, Nondeterminism)
"""Verdicts that are not reproduced: one takes seconds each time, the other does not come again."""

BUDGET = 100_000  # Steps.
TIMES = 10

T = TypeVar("T")

# Delays by the number of the decision instead of the gap: it stays when another delay is removed.
_Places = tuple[tuple[int, int], ...]


def shrink(function: RankFunction, failure: Execution, budget: int = BUDGET) -> Execution:
    """Shrink a failure to the simplest one of the same kind.  Blocks until the budget is spent at most.

    Args:
        function: the rank function that failed.
        failure: an execution with a verdict.
        budget: number of steps to execute.

    Returns:
        The simplest failure found, at worst the given one.  If the failure is not reproducible, the execution
        that came instead, with the verdict `Nondeterminism`.

    >>> from pytest_elastic.simulator import schedule_of, simulate
    >>> def lose(rank, world_size, store):
    ...     assert rank or store.add("count", 1) == 1
    ...     return store.add("count", 1)
    >>> str(schedule_of(shrink(lose, simulate(lose, [(0, 2), (1, 1)], ranks=3))))
    'E1.2.l.0-1.p0545705a'
    """
    if isinstance(failure.verdict, COME_ONCE):
        return failure
    trials = _Trials(function, failure, budget)
    try:
        if trials.try_out(failure.setting, failure.delays, any_size=True) is None:
            return _differing(failure, trials.last)
        for simplify in (
            fewer_faults,
            fewer_ranks,
            fewer_rounds,
            fewer_expiries,
            fewer_delays,
            smaller_delays,
            fewest_delays,
        ):
            simplify(trials)
    except _SpentError:
        pass
    finally:
        trials.close()
    return trials.best


def confirm(function: RankFunction, failure: Execution, times: int = TIMES) -> Execution:
    """Reproduce a failure several times.  Blocks until all executions have ended.

    Args:
        function: the rank function that failed.
        failure: an execution with a verdict.
        times: number of executions.

    Returns:
        The given failure, or the first execution that differs from it, with the verdict `Nondeterminism`.

    >>> from pytest_elastic.simulator import simulate
    >>> failure = simulate(lambda rank, world_size, store: store.get("never"), ranks=2)
    >>> confirm(lambda rank, world_size, store: store.get("never"), failure) is failure
    True
    """
    if isinstance(failure.verdict, COME_ONCE):
        return failure
    with Simulation(function, failure.setting) as simulation:
        for _ in range(times):
            again = simulation.run(SparseScheduler(failure.delays))
            if compare(failure, again) is not None or _kind(again.verdict) != _kind(failure.verdict):
                return _differing(failure, again)
    return failure


class _SpentError(Exception):
    """The budget is used up."""


class _Trials:
    """Runs candidates and keeps the simplest failure."""

    def __init__(self, function: RankFunction, failure: Execution, budget: int) -> None:
        self.function, self.best, self.last = function, failure, failure
        self._kind, self._left = _kind(failure.verdict), budget
        self._simulation: Simulation | None = None
        title, self._budget = f"a simpler failure of {getattr(function, '__name__', 'function')}", budget
        self._progress = Progress(title, "runs", budget, so_far="the search goes on")

    def run(self, setting: Setting, delays: Delays) -> Execution:
        """Run one execution, if the budget allows it."""
        if self._left <= 0:
            raise _SpentError
        if self._simulation is None or self._simulation.setting != setting:
            self._leave()
            self._simulation = Simulation(self.function, setting).__enter__()
        self.last = self._simulation.run(SparseScheduler(delays))
        self._left -= len(self.last.steps) + 1
        self._progress.count(1 - self._left / self._budget)
        return self.last

    def try_out(self, setting: Setting, delays: Delays, any_size: bool = False) -> Execution | None:
        """Run a candidate, and keep it if it fails in the same way and is simpler."""
        execution = self.run(setting, delays)
        if _kind(execution.verdict) != self._kind or (execution.unfired and not self.best.unfired):
            return None
        if any_size or _size(execution) < _size(self.best):
            self.best = execution
            return execution
        return None

    def close(self) -> None:
        self._leave()
        self._progress.close("the simplest one follows")

    def _leave(self) -> None:
        if self._simulation is not None:
            self._simulation.__exit__(None, None, None)
            self._simulation = None


def fewer_ranks(trials: _Trials) -> None:
    setting = trials.best.setting
    if trials.run(setting, ()).verdict is not None:
        return
    for ranks in range(2, setting.ranks):
        if any(
            rank is not None and rank >= ranks
            for fault in setting.faults
            for rank in (fault.rank, fault.watched)
        ):
            continue
        smaller = replace(setting, ranks=ranks, skew=setting.skew[:ranks])
        default = trials.run(smaller, ())
        if default.verdict is not None:
            continue
        for delays in (trials.best.delays, *_extensions(default)):
            if trials.try_out(smaller, delays):
                return


def fewer_rounds(trials: _Trials) -> None:
    for rounds in range(1, trials.best.setting.rounds):
        fewer = replace(trials.best.setting, rounds=rounds)
        for delays in (trials.best.delays, (), *_extensions(trials.run(fewer, ()))):
            if trials.try_out(fewer, delays):
                return


def fewer_faults(trials: _Trials) -> None:
    def attempt(faults: Sequence[Fault]) -> bool:
        best = trials.best
        plan = FaultPlan(tuple(fault for fault in best.setting.faults if any(fault is one for one in faults)))
        return trials.try_out(replace(best.setting, faults=plan), best.delays) is not None

    minimize(list(trials.best.setting.faults), attempt)


def fewer_expiries(trials: _Trials) -> None:
    for expiries in range(trials.best.setting.expiries):
        if trials.try_out(replace(trials.best.setting, expiries=expiries), trials.best.delays):
            return


def fewer_delays(trials: _Trials) -> None:
    setting = trials.best.setting
    if not trials.best.delays or trials.try_out(setting, ()):
        return
    if len(trials.best.delays) > 1 and _more(trials, (), 1):
        return
    minimize(
        list(_places(trials.best.delays)),
        lambda places: trials.try_out(setting, _delays(tuple(places))) is not None,
    )
    kept = 1
    while kept < len(trials.best.delays) - 1:
        if not _more(trials, trials.best.delays[:kept], 1):
            kept += 1


def smaller_delays(trials: _Trials) -> None:
    """Each delay as early, and to as near an alternative, as it can be."""
    while any(trials.try_out(trials.best.setting, delays) for delays in _smaller(trials.best.delays)):
        pass


def _smaller(delays: Delays) -> Iterator[Delays]:
    """The schedules with one delay smaller."""
    places = _places(delays)
    for index, (place, shift) in enumerate(places):
        start = places[index - 1][0] + 1 if index else 0
        nearer = [(place, less) for less in range(1, shift)]
        earlier = [(before, some) for before in range(start, place) for some in range(1, shift + 1)]
        for candidate in (*nearer, *earlier):
            yield _delays((*places[:index], candidate, *places[index + 1 :]))


def fewest_delays(trials: _Trials) -> None:
    """All schedules of two delays, of three, ...: the first failure found is the simplest."""
    for count in range(2, len(trials.best.delays)):
        if _more(trials, (), count):
            return


def _more(trials: _Trials, delays: Delays, count: int) -> bool:
    """Try these delays and `count` more, anywhere after them."""
    setting = trials.best.setting
    for longer in _extensions(trials.run(setting, delays)):
        if _more(trials, longer, count - 1) if count > 1 else trials.try_out(setting, longer):
            return True
    return False


def minimize(items: list[T], attempt: Callable[[Sequence[T]], bool]) -> None:
    """Remove parts, large ones first, as long as the attempt without them succeeds."""
    size = len(items)
    while size:
        start = 0
        while start < len(items):
            rest = items[:start] + items[start + size :]
            if attempt(rest):
                items = rest
            else:
                start += size
        size //= 2


def _extensions(execution: Execution) -> Iterator[Delays]:
    """The delays of an execution and one more, at each place after them."""
    places = _places(execution.delays)
    start = places[-1][0] + 1 if places else 0
    decisions = [steps for steps in execution.enabled[: execution.turns] if len(steps) > 1]
    for place in range(start, len(decisions)):
        for shift in range(1, len(decisions[place])):
            yield _delays((*places, (place, shift)))


def _places(delays: Delays) -> _Places:
    places, at = [], 0
    for gap, shift in delays:
        places.append((at + gap, shift))
        at += gap + 1
    return tuple(places)


def _delays(places: _Places) -> Delays:
    delays, at = [], 0
    for place, shift in places:
        delays.append((place - at, shift))
        at = place + 1
    return tuple(delays)


def _size(execution: Execution) -> tuple[object, ...]:
    setting, places = execution.setting, _places(execution.delays)
    return (
        setting.ranks,
        setting.rounds,
        len(setting.faults),
        setting.expiries,
        len(places),
        sum(place for place, _ in places),
        places,
    )


def _kind(verdict: Verdict | None) -> tuple[object, ...]:
    if isinstance(verdict, RankFailed):
        return RankFailed, verdict.type_name, verdict.place
    return (type(verdict),)


def _differing(once: Execution, again: Execution) -> Execution:
    """The second execution with the verdict that it differs from the first under the same schedule."""
    return replace(again, verdict=compare(once, again) or Nondeterminism(len(again.steps), (), ()))
