"""Which schedules to run next, until the budget is spent or there are no others.

`"auto"` takes, in this order: the default schedule; then, in turns, the next trace of the exhaustive search
and the next single delay of the default schedule (all of them together find every defect of depth 1); the
exhaustive search alone, as long as what is left of its tree seems to fit into the budget; and for the
rest the portfolio, in equal slices.

A plan is a generator of names and schedulers; it is sent the execution of each, and returns whether all
traces were seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from random import Random

from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution
from pytest_elastic.simulator._portfolio import portfolio
from pytest_elastic.simulator._scheduler import DefaultScheduler, Scheduler, SparseScheduler
from pytest_elastic.simulator._simulation import Simulation

Plan = Generator[tuple[str, Scheduler], Execution, bool]

_PATIENCE = 100  # Executions, before a guess at the size of the tree counts.
_LONG = 500  # Steps.


def plan_of(strategy: str, simulation: Simulation, budget: int, seed: int) -> Plan:
    """The plan of a strategy's name.

    Raises:
        ValueError: there is none of this name.
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


def every_trace(search: Dpor) -> Plan:
    """The exhaustive search."""
    while True:
        yield "dpor", search
        search.finish()
        if not search.advance():
            return True


def _auto(simulation: Simulation, budget: int, chance: Random) -> Plan:
    search = Dpor(simulation)
    default = yield "default", search
    search.finish()
    spent, delays = cost(default), single_delays(default)
    while search.advance():
        if spent > _PATIENCE and not _fits(search, spent, budget):
            break
        spent += cost((yield "dpor", search))
        search.finish()
        for delay in delays:
            spent += cost((yield "delays", delay))
            break
    else:
        return True
    for delay in delays:
        yield "delays", delay
    yield from _slices(simulation, default, chance)
    return False


def cost(execution: Execution) -> int:
    """What an execution takes of the budget: 1, and more if it is very long."""
    return max(1, len(execution.steps) // _LONG)


def _fits(search: Dpor, spent: int, budget: int) -> bool:
    """Whether the tree, as far as it is known, has an end within twice the budget."""
    return spent < budget / 2 if search.share == 0 else spent / search.share < 2 * budget


def _one(strategy: str, simulation: Simulation, chance: Random) -> Plan:
    default = yield "default", DefaultScheduler()
    if strategy == "delays":
        for delay in single_delays(default):
            yield "delays", delay
        return False
    make = portfolio(simulation.setting.ranks, _decisions(default))[strategy]
    while True:
        yield strategy, make(chance)


def _slices(simulation: Simulation, default: Execution, chance: Random) -> Plan:
    strategies = portfolio(simulation.setting.ranks, _decisions(default))
    while True:
        for name, make in strategies.items():
            yield name, make(chance)


def single_delays(default: Execution) -> Iterator[SparseScheduler]:
    """Every schedule with one delay, along the default execution."""
    choices = [len(steps) for steps in default.enabled[: default.turns] if len(steps) > 1]
    for gap, alternatives in enumerate(choices):
        for shift in range(1, alternatives):
            yield SparseScheduler([(gap, shift)])


def _decisions(execution: Execution) -> int:
    return sum(len(steps) > 1 for steps in execution.enabled)
