"""Recall in the simulator: every kernel is found, as it should be, and every repaired twin is proved.

A kernel's test is called by each simulated rank, with its fixtures.  Three kernels are about processes: for a killed
rank stands a fault plan, a sleep is over as soon as nothing else happens, and who computes for ever is seen as that.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from kernel_run import load_kernel
from kernels import CORPUS, KERNELS, marked, wrong

from pytest_elastic.errors import CollectiveTimeout
from pytest_elastic.faults import kill
from pytest_elastic.simulator import (
    HangUntilTimeout,
    RankFailed,
    UncontrolledBlocking,
    Verdict,
    explore,
    prove,
    simulate,
    torch_ranks,
)
from pytest_elastic.store import barrier

dist = pytest.importorskip("torch.distributed", reason="torch is not installed")

KILLED, ASLEEP, COMPUTES = "k31_killed", "k32_asleep", "k33_computes"
ALIKE = [kernel for kernel in KERNELS if kernel not in (KILLED, ASLEEP, COMPUTES)]


class World:
    """What kernels use of the fixture `world`."""

    def __init__(self, rank: int, size: int, store: Any) -> None:
        self.rank, self.size, self.store = rank, size, store
        self._counts: Counter[str] = Counter()

    def barrier(self, name: str) -> None:
        self._counts[name] += 1
        barrier(self.store, self.size, f"world/barrier/{name}/{self._counts[name]}", rank=self.rank)


def program(kernel: str, name: str, seconds: float = 1800) -> tuple[Any, int]:
    """A test of a kernel as a rank function, and its number of ranks."""
    test: Callable[..., Any] = getattr(load_kernel(CORPUS / f"{kernel}.py"), name)
    asked = inspect.signature(test).parameters

    @torch_ranks
    def function(rank: int, world_size: int, store: Any) -> Any:
        there = {"rank": rank, "world": World(rank, world_size, store)}
        if "process_group" in asked:
            dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
            there["process_group"] = dist.group.WORLD
        return test(**{one: there[one] for one in asked})

    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    return function, mark.kwargs["nprocs"]


def said(verdict: Verdict) -> dict[str, Any]:
    """The diagnosis as it is written for real ranks."""
    assert verdict.diagnosis is not None
    found: dict[str, Any] = json.loads(json.dumps(verdict.diagnosis.to_json()))
    return found


@pytest.mark.parametrize("kernel", ALIKE)
def test_a_bug_is_found(kernel: str) -> None:
    """With the right verdict, ranks, call, operation and line."""
    function, ranks = program(kernel, "test_buggy")
    with pytest.raises(Verdict) as caught:
        explore(function, ranks)
    assert wrong(kernel, said(caught.value)) == [], (str(caught.value), caught.value.__notes__)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_repaired_twin_is_proved(kernel: str) -> None:
    """In every schedule."""
    function, ranks = program(kernel, "test_fixed")
    assert prove(function, ranks).exhausted


def test_a_killed_rank_is_named() -> None:
    """The kill is a fault of the plan."""
    function, ranks = program(KILLED, "test_fixed")
    with pytest.raises(HangUntilTimeout) as caught:
        explore(function, ranks, faults=kill(rank=1, collective="world#0"))
    (line,) = wrong(KILLED, said(caught.value))  # The twin's line, which is not marked.
    assert f"{KILLED}.py:22', [0, 2]" in line


def test_a_sleep_that_is_shorter_than_the_timeout_is_no_hang() -> None:
    """Time jumps."""
    function, ranks = program(ASLEEP, "test_buggy")
    assert simulate(function, ranks=ranks).check().now == 60


def test_a_sleep_that_is_longer_than_the_timeout_is_found() -> None:
    """Those who wait get the group's timeout, which names the one that sleeps."""
    function, ranks = program(ASLEEP, "test_buggy", seconds=6)
    with pytest.raises(RankFailed, match="CollectiveTimeout") as caught:
        explore(function, ranks)
    assert caught.value.place.rpartition("/")[2] in marked(ASLEEP)
    error = caught.value.__cause__
    assert isinstance(error, CollectiveTimeout)
    assert (error.group, error.number, error.ranks) == ("world", 1, [1])


def test_a_rank_that_computes_for_ever_is_named() -> None:
    """It reaches no step; nothing is known of the others."""
    function, ranks = program(COMPUTES, "test_buggy")
    with pytest.raises(UncontrolledBlocking, match=f"{COMPUTES}.py") as caught:
        simulate(function, ranks=ranks).check()
    assert caught.value.ranks == [2]
