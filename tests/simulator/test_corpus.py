"""The kernels are what they say they are, and the search finds them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.simulator import RankFailed, Setting, Verdict
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._explore import explore
from pytest_elastic.simulator._oracle import visits
from pytest_elastic.simulator._scheduler import DefaultScheduler
from pytest_elastic.simulator._world import Simulation
from simulator.corpus import KERNELS
from simulator.corpus._kernel import Kernel

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
    """What is right does not depend on who is woken how; with two ranks, since `level` has many traces."""
    assert explore(kernel.fixed, 2, **kernel.options | {"wake": wake}).exhausted


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


@by_name
def test_how_deep_it_is(kernel: Kernel) -> None:
    """The default schedule finds those that need no delay, and no others."""
    with Simulation(kernel.buggy, Setting(kernel.ranks, **kernel.options)) as simulation:
        failed = simulation.run(DefaultScheduler()).verdict is not None
    assert failed == (kernel.delays == 0)
