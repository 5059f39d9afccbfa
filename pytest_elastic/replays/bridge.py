"""The bridge between real ranks and the simulator: recordings go there, executions come back as tokens.

The program is one that runs on both sides: `function(rank, world_size, store)`, on real ranks called with
`current_world().store`.

    (recording,) = load(Path("recording.jsonl").read_text("utf-8"))
    smallest = shrink(function, simulated(function, recording))
    print(schedule_of(smallest), real_token(smallest))
"""

from __future__ import annotations

from collections import Counter

from pytest_elastic.errors import DivergenceError
from pytest_elastic.faults import ENDS
from pytest_elastic.replays._recording import Entry, Recording, load
from pytest_elastic.replays._sparse import UnsuitedError, steps_of
from pytest_elastic.replays._token import ScheduledOrder, fingerprint
from pytest_elastic.simulator import (
    Execution,
    FollowingScheduler,
    Kind,
    RankFunction,
    Setting,
    Simulation,
    Step,
    delays_of,
)

__all__ = ["UnsuitedError", "load", "real_token", "simulated"]


def simulated(function: RankFunction, recording: Recording) -> Execution:
    """The execution of a recording's order in the simulator, for `shrink` and `schedule_of`.

    Args:
        function: the program that was recorded.
        recording: one group's, from `load`.

    Returns:
        The execution; its `verdict` says how it fails.

    Raises:
        DivergenceError: the function does something else in the simulator.
    """
    steps = recording.steps
    order: list[tuple[int, Kind]] = [(one.rank, "expire" if one.expires else "call") for one in steps]
    expiries = sum(one.expires for one in steps)
    setting = Setting(
        recording.nprocs,
        faults=recording.faults,
        expiries=expiries,
        may_timeout=expiries > 0,
    )
    with Simulation(function, setting) as simulation:
        try:
            execution = simulation.run(FollowingScheduler(order))
        except LookupError as error:
            raise DivergenceError(f"the simulator cannot follow the recording: {error.args[0]}") from None
    came = [_entry(step) for step in execution.steps if step.kind in ("call", "expire")]
    for number, (one, other) in enumerate(zip(steps, came, strict=False), 1):
        if (one.rank, one.name, one.keys) != (other.rank, other.name, other.keys):
            text = f"step {number} of the recording\n  expected {one}\n  came     {other}"
            raise DivergenceError(f"the function does something else in the simulator at {text}")
    return execution


def real_token(execution: Execution) -> str:
    """The token of an execution for real ranks, for `--elastic-replay`.

    Raises:
        UnsuitedError: real ranks cannot be forced into it: time, or the store's `"level"` rule, has a part.

    >>> from pytest_elastic.simulator import simulate
    >>> execution = simulate(lambda rank, world_size, store: store.set(f"key{rank}", "1"), ranks=2)
    >>> real_token(execution)
    'R1.1-1.p787588e3'
    """
    setting = execution.setting
    if setting.wake != "latched" or any(fault.kind not in (*ENDS, "drop") for fault in setting.faults):
        raise UnsuitedError("only a latched store and faults without a span can be forced on real ranks")
    pairs = [pair for pair in zip(execution.steps, execution.enabled, strict=True) if pair[1]]
    strange = next((step for step, _ in pairs if step.kind not in ("call", "expire")), None)
    if strange is not None:
        raise UnsuitedError(f"real ranks have no such step: {strange}")
    done = [pair for pair, after in zip(pairs, _struck(execution), strict=True) if not after]
    left = Counter((step.rank, 0) for step, _ in done)
    counts, parties = dict(left), sorted(left)
    decisions = []
    for step, enabled in done:
        able = {(other.rank, 0) for other in enabled if other.kind == "call"}
        going = [party for party in parties if left[party]]
        steps = steps_of(going, {party for party in going if party not in able}, parties)
        chosen = Step(parties.index((step.rank, 0)), step.kind, "")
        decisions.append((steps, steps.index(chosen)))
        left[step.rank, 0] -= 1
    program = fingerprint(_entry(step) for step, _ in done)
    return str(ScheduledOrder(counts, delays_of(decisions), program, setting.faults))


def _struck(execution: Execution) -> list[bool]:
    """For each step whether a fault ended its rank there: on real ranks it is then never applied."""
    found: list[bool] = []
    caller = -1
    for step in execution.steps:
        if step.kind != "fault":
            caller = step.rank
            found.append(False)
        elif step.name in ("kill", "exit") and step.rank == caller:
            found[-1] = True
    return found


def _entry(step: Step) -> Entry:
    first = step.arguments[0] if step.arguments else ()
    keys = (first,) if isinstance(first, str) else tuple(first)
    return Entry(step.rank, 0, "timed out" if step.kind == "expire" else "called", step.name, keys)
