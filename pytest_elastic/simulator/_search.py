"""Search strategies: the schedules to run next, until the budget is spent or no other is left.

`"auto"` takes, in this order: the default schedule; then, in turns, the next trace of the exhaustive search
and the next single delay from the default schedule (all of them together find every defect of depth 1); the
exhaustive search alone, as long as the rest of its tree seems to fit into the budget; and for the rest the
portfolio, in equal slices.

A search is a generator of strategy names and schedulers; it is sent the execution of each, and returns
whether every trace was seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from random import Random

from pytest_elastic.scheduling import DefaultScheduler, Scheduler, SparseScheduler
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution
from pytest_elastic.simulator._portfolio import portfolio
from pytest_elastic.simulator._simulation import Simulation

Search = Generator[tuple[str, Scheduler], Execution, bool]

_PATIENCE = 100  # Executions before the estimate of the tree's size is used.
_LONG = 500  # Steps.


def search_of(strategy: str, simulation: Simulation, budget: int, seed: int) -> Search:
    """The search of a strategy.

    Raises:
        ValueError: no strategy has this name.
    """
    names = ("auto", "dpor", "delays", *portfolio(1, 1))
    if strategy not in names:
        raise ValueError(f"strategy must be one of {', '.join(names)}, not {strategy!r}")
    chance = Random(f"{seed}")
    if strategy == "auto":
        return _auto(simulation, budget, chance)
    if strategy == "dpor":
        return every_trace(Dpor(simulation))
    return _one(strategy, simulation, chance)


def every_trace(dpor: Dpor) -> Search:
    """The exhaustive search."""
    while True:
        yield "dpor", dpor
        if not dpor.advance():
            return True


def _auto(simulation: Simulation, budget: int, chance: Random) -> Search:
    dpor = Dpor(simulation)
    default = yield "default", dpor
    spent, delays = cost(default), single_delays(default)
    while dpor.advance():
        if spent > _PATIENCE:
            fits = spent < budget / 2 if dpor.share == 0 else spent / dpor.share < 2 * budget
            if not fits:
                break
        spent += cost((yield "dpor", dpor))
        dpor.finish()
        for delay in delays:
            spent += cost((yield "delays", delay))
            break
    else:
        return True
    for delay in delays:
        yield "delays", delay
    strategies = portfolio(simulation.setting.ranks, _decisions(default))
    while True:
        for name, make in strategies.items():
            yield name, make(chance)


def cost(execution: Execution) -> int:
    """The part of the budget that an execution uses: 1, or more if it is very long."""
    return max(1, len(execution.steps) // _LONG)


def _one(strategy: str, simulation: Simulation, chance: Random) -> Search:
    default = yield "default", DefaultScheduler()
    if strategy == "delays":
        for delay in single_delays(default):
            yield "delays", delay
        return False
    make = portfolio(simulation.setting.ranks, _decisions(default))[strategy]
    while True:
        yield strategy, make(chance)


def single_delays(default: Execution) -> Iterator[SparseScheduler]:
    """Every schedule with one delay from the default execution."""
    choices = [len(steps) for steps in default.enabled[: default.turns] if len(steps) > 1]
    for gap, alternatives in enumerate(choices):
        for shift in range(1, alternatives):
            yield SparseScheduler([(gap, shift)])


def _decisions(execution: Execution) -> int:
    return sum(len(steps) > 1 for steps in execution.enabled)
