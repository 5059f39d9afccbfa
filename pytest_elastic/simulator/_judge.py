"""How an execution ended, in one word; the table is in `_failures`."""

from __future__ import annotations

import math

from pytest_elastic.simulator._crew import Stuck
from pytest_elastic.simulator._execution import Execution
from pytest_elastic.simulator._failures import (
    Deadlock,
    HangUntilTimeout,
    Livelock,
    Nondeterminism,
    RankFailed,
    TimerExpired,
    UncontrolledBlocking,
    Verdict,
)
from pytest_elastic.simulator._scheduler import Step


def judge(execution: Execution, stuck: Stuck | None) -> Verdict | None:
    """The verdict of an execution that ran to its end."""
    blocked = execution.blocked
    if stuck is not None:
        return UncontrolledBlocking(stuck.member, "".join(stuck.stack))
    for rank, error in execution.errors.items():
        return RankFailed(rank, error, blocked)
    for rank, scope in execution.expired.items():
        return TimerExpired(rank, scope, blocked)
    if execution.livelocked:
        return Livelock(execution.livelocked)
    if not blocked:
        return None
    deadline = min(each.deadline for each in blocked)
    if deadline == math.inf:
        return Deadlock(blocked, execution.fates)
    return HangUntilTimeout(blocked, deadline - execution.now, execution.fates)


def compare(once: Execution, again: Execution) -> Nondeterminism | None:
    """Where two executions of one schedule differ in what could be done, if they do."""
    firsts, seconds = _choices(once), _choices(again)
    for at in range(max(len(firsts), len(seconds))):
        first, second = firsts[at : at + 1], seconds[at : at + 1]
        if first != second:
            return Nondeterminism(at, first[0] if first else (), second[0] if second else ())
    return None


def _choices(execution: Execution) -> list[tuple[Step, ...]]:
    pairs = zip(execution.enabled, execution.steps, strict=True)
    return [tuple(steps) or (done,) for steps, done in pairs]
