"""The kernels are what they say they are, and the search finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_elastic.simulator import (
    Execution,
    RankFailed,
    Setting,
    SparseScheduler,
    Verdict,
    explore,
    parse_token,
    prove,
)
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._simulation import Simulation
from simulator.corpus import KERNELS
from simulator.corpus._kernel import Kernel
from simulator.oracle import visits

by_name = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


@by_name
def test_the_kernel_is_found(kernel: Kernel) -> None:
    """With the verdict that it is listed with."""
    with pytest.raises(Verdict) as info:
        explore(kernel.buggy, kernel.ranks, **kernel.options)
    assert isinstance(info.value, RankFailed) == (kernel.fails == "error")


@by_name
def test_its_twin_is_not(kernel: Kernel) -> None:
    """Every trace of the repaired program was seen, and none fails."""
    found = explore(kernel.fixed, kernel.ranks, **kernel.options)
    assert found.exhausted


@pytest.mark.parametrize("wake", ["latched", "level"])
@pytest.mark.parametrize(
    "kernel", [kernel for kernel in KERNELS if kernel.number != 13], ids=lambda kernel: kernel.name
)
def test_its_twin_is_right_under_both_wake_rules(kernel: Kernel, wake: Any) -> None:
    """What is right does not depend on who is woken how."""
    assert prove(kernel.fixed, kernel.ranks, **kernel.options | {"wake": wake}).exhausted


@by_name
def test_when_it_fails(kernel: Kernel) -> None:
    """Always, in every trace; or in some only."""
    expected = {False} if kernel.always else {False, True}
    setting, ends = Setting(kernel.ranks, **kernel.options), set()
    for execution, _ in visits(Dpor, kernel.buggy, setting):
        ends |= set() if execution.cut else {execution.verdict is None}
        if len(ends) == 2:
            break
    assert ends == expected


def every_schedule(simulation: Simulation, delays: int) -> Iterator[Execution]:
    """All with at most so many delays."""
    pending: list[tuple[tuple[int, int], ...]] = [()]
    while pending:
        schedule = pending.pop()
        execution = simulation.run(SparseScheduler(schedule))
        yield execution
        if len(schedule) < delays:
            used = sum(gap + 1 for gap, _ in schedule)
            choices = [len(steps) for steps in execution.enabled if len(steps) > 1][used:]
            pending += [
                (*schedule, (gap, shift)) for gap, count in enumerate(choices) for shift in range(1, count)
            ]


@by_name
def test_how_deep_it_is(kernel: Kernel) -> None:
    """No schedule with fewer delays fails, and what is found is shrunk to so many."""
    setting = Setting(kernel.ranks, **kernel.options)
    with Simulation(kernel.buggy, setting) as simulation:
        if kernel.delays:
            assert all(each.verdict is None for each in every_schedule(simulation, kernel.delays - 1))
    with pytest.raises(Verdict) as info:
        explore(kernel.buggy, kernel.ranks, **kernel.options)
    token = info.value.__notes__[-1].split("'")[1]
    assert len(parse_token(token).delays) == kernel.delays
