"""One execution: `simulate` it, `replay` it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.simulator._execution import Execution, Setting, Wake
from pytest_elastic.simulator._schedule import Schedule, TokenError, fingerprint, parse_token, recipe
from pytest_elastic.simulator._scheduler import SparseScheduler
from pytest_elastic.simulator._simulation import RankFunction, Simulation


def simulate(
    function: RankFunction,
    schedule: Schedule | str | Sequence[tuple[int, int]] = (),
    faults: FaultPlan | str | None = None,
    *,
    ranks: int | None = None,
    wake: Wake | None = None,
    may_timeout: bool = False,
) -> Execution:
    """Run a rank function once, on every rank of a simulated group.

    Args:
        function: called as `function(rank, world_size, store)`.
        schedule: a token, what it stands for, or just delays from the default schedule.
        faults: what goes wrong, besides what the schedule says.
        ranks: how many; needed where the schedule does not say it, else in place of what it says.
        wake: the store's rule, `"latched"` where nobody says it.
        may_timeout: whether a wait that only its timeout can end is no hang.

    Returns:
        The record; its `check()` raises what is wrong, with a note of the token.

    Raises:
        TokenError: the token is none.
        ValueError: nobody says how many ranks, or the setting is impossible.
    """
    whole = _whole(schedule, ranks)
    plan = parse(faults) if isinstance(faults, str) else faults or FaultPlan()
    setting = replace(
        whole.setting,
        ranks=ranks or whole.setting.ranks,
        wake=wake or whole.setting.wake,
        faults=whole.setting.faults | plan,
        may_timeout=may_timeout,
    )
    with Simulation(function, setting) as simulation:
        execution = simulation.run(SparseScheduler(whole.delays))
    if execution.verdict is not None:
        name = getattr(function, "__name__", "function")
        execution.verdict.add_note(f"to run it again: {recipe(name, execution)}")
    return execution


def replay(function: RankFunction, token: Schedule | str, *, may_timeout: bool = False) -> Execution:
    """Run the execution that a token stands for again, and raise what is wrong with it.

    Raises:
        TokenError: the token is none, or was made for a program that did something else.
        Verdict: see `Execution.check`.
        UnfiredFaultError: a fault did not happen.
    """
    __tracebackhide__ = True
    schedule = _whole(token, None)
    execution = simulate(function, schedule, may_timeout=may_timeout)
    if schedule.program not in (None, fingerprint(execution.steps)):
        raise TokenError(
            str(schedule),
            "was made for another program: this one did other operations; without its seal it runs",
        )
    return execution.check()


def _whole(schedule: Schedule | str | Sequence[tuple[int, int]], ranks: int | None) -> Schedule:
    if isinstance(schedule, str):
        return parse_token(schedule)
    if isinstance(schedule, Schedule):
        return schedule
    if ranks is None:
        raise ValueError("ranks=: how many there are is neither in the schedule nor given")
    return Schedule(Setting(ranks), tuple(schedule))
