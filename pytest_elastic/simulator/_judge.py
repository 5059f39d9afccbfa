"""How an execution ended, in one word; the table is in `_verdict`."""

from __future__ import annotations

import math
import traceback

from pytest_elastic.simulator._execution import Execution
from pytest_elastic.simulator._task import Stuck
from pytest_elastic.simulator._verdict import (
    Deadlock,
    HangUntilTimeout,
    RankFailed,
    UncontrolledBlocking,
    Verdict,
)


def judge(execution: Execution, stuck: Stuck | None) -> Verdict | None:
    """The verdict of an execution that ran to its end."""
    if stuck is not None:
        return UncontrolledBlocking(stuck.member, "".join(stuck.stack))
    blocked = execution.blocked
    for rank, error in execution.errors.items():
        trace = "".join(traceback.format_exception(error))
        verdict = RankFailed(rank, type(error).__name__, str(error), trace, blocked)
        verdict.__cause__ = error
        return verdict
    if not blocked:
        return None
    deadline = min(each.deadline for each in blocked)
    if deadline == math.inf:
        return Deadlock(blocked)
    return HangUntilTimeout(blocked, deadline - execution.now)
