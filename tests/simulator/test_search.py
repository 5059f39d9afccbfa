"""Which schedules come next."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.scheduling import DefaultScheduler
from pytest_elastic.simulator import Setting, Simulation
from pytest_elastic.simulator._portfolio import portfolio
from pytest_elastic.simulator._search import search_of, single_delays
from simulator.programs import exchange


def many(rank: int, world_size: int, store: Any) -> None:
    for _ in range(8):
        store.add("n", 1)


def names(function: Any, strategy: str, budget: int, ranks: int = 3) -> tuple[list[str], bool | None]:
    """The names of what a plan proposes; and whether all traces were seen, `None` if it had more."""
    with Simulation(function, Setting(ranks)) as simulation:
        search = search_of(strategy, simulation, budget, 0)
        name, scheduler = next(search)
        found = [name]
        while len(found) < budget:
            try:
                name, scheduler = search.send(simulation.run(scheduler))
            except StopIteration as end:
                return found, end.value
            found.append(name)
        return found, None


def test_the_order_of_auto() -> None:
    """The default, then traces and single delays in turns, then traces alone."""
    found, exhausted = names(exchange, "auto", 1000)
    assert found[:5] == ["default", "dpor", "delays", "dpor", "delays"]
    assert found.count("dpor") >= 8, "9 traces, one of which is the default schedule's"
    assert exhausted


def test_auto_turns_to_the_portfolio() -> None:
    """When the tree turns out to be too big."""
    found, exhausted = names(many, "auto", 400)
    assert exhausted is None
    first = found.index("random")
    assert set(found[first:]) == set(portfolio(1, 1))
    assert 100 <= first <= 300


def test_the_single_delays() -> None:
    """Each alternative of each decision, once."""
    with Simulation(exchange, Setting(2)) as simulation:
        default = simulation.run(DefaultScheduler())
        alternatives = sum(len(steps) - 1 for steps in default.enabled)
        delays = [simulation.run(scheduler).delays for scheduler in single_delays(default)]
    assert len(delays) == alternatives > 5
    assert len(set(delays)) == len(delays)
    assert all(len(each) == 1 for each in delays)


def test_delays_alone_come_to_an_end() -> None:
    """Which proves nothing."""
    found, exhausted = names(exchange, "delays", 1000, ranks=2)
    assert found[0] == "default"
    assert set(found[1:]) == {"delays"}
    assert exhausted is False


def test_the_exhaustive_search_alone() -> None:
    """Comes to an end that proves it."""
    assert names(exchange, "dpor", 1000, ranks=2) == (["dpor"] * 4, True)


@pytest.mark.parametrize("strategy", portfolio(1, 1))
def test_a_sampler_goes_on_for_ever(strategy: str) -> None:
    """After the default schedule, which says how long an execution is."""
    found, exhausted = names(exchange, strategy, 50)
    assert found == ["default", *[strategy] * 49]
    assert exhausted is None
