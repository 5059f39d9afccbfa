"""Tests of rank functions under faults, in the simulator and on real ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.launch import current_world

RankFunction = Callable[[int, int, Any], Any]


def faults(
    plan: FaultPlan | str = "", *, single: bool = False, ranks: int = 3, sample: int = 10
) -> Callable[[RankFunction], Callable[..., None]]:
    """Decorator that makes a rank function `function(rank, world_size, store)` a test under faults.

    The test runs the function in the simulator, under every schedule, and then on real ranks.  A rank killed
    by a fault may die; every other rank must return, even when operations time out.  The test's attribute
    `function` is the rank function, for `replay`.

        @faults("K1@2", ranks=3)
        def test_survivors_return(rank, world_size, store):
            try:
                store.barrier("start", world_size, 1.0)
            except DistStoreError:
                pass

    Args:
        plan: the faults that happen in each run, as a plan or its text.
        single: whether to test single kills besides: in the simulator each rank is killed before each of its
            operations, on real ranks `sample` of these kills are tried.
        ranks: number of ranks.
        sample: number of kills on real ranks; 0 tests in the simulator only.

    Raises:
        ValueError: neither `plan` nor `single` is given.
        FaultPlanError: the plan is impossible.
    """
    planned = parse(plan) if isinstance(plan, str) else plan
    if not (planned or single):
        raise ValueError("faults() takes a plan, such as 'K1@4', or single=True, or both")
    planned.check(ranks)

    def decorate(function: RankFunction) -> Callable[..., None]:
        def on_rank(rank: int, world_size: int) -> Any:
            return function(rank, world_size, current_world().store)

        def in_simulator(rank: int, world_size: int, store: Any) -> Any:
            __tracebackhide__ = True
            return function(rank, world_size, store)

        def test(elastic: Any, elastic_faults: Any) -> None:
            from pytest_elastic.simulator import prove, prove_kills

            (prove_kills if single else prove)(in_simulator, ranks, faults=planned, may_timeout=True)
            elastic_faults(planned)
            if single and sample:
                elastic_faults.survive(on_rank, ranks, sample)
            elif sample:
                elastic.run(on_rank, ranks, expect=planned.ends)

        if hasattr(function, "around"):
            in_simulator.around = function.around  # type: ignore[attr-defined]
        on_rank.__name__ = function.__name__
        in_simulator.__name__ = f"{function.__name__}.function"  # The name for `replay` in a failure's note.
        functools.update_wrapper(test, function)
        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for its arguments.
        test.function = function  # type: ignore[attr-defined]
        test.place_as = function  # type: ignore[attr-defined]  # The line that pytest shows.
        return test

    return decorate
