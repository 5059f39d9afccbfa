"""Between real ranks and the simulator: a recording runs there, and what it became there runs on real ranks.

Both ways are for a program that can be run on both sides: `function(rank, world_size, store)`, on real ranks
called with `current_world().store`.

    (recording,) = load(Path("recording.jsonl").read_text("utf-8"))
    smallest = shrink(function, simulated(function, recording))
    print(schedule_of(smallest), real_token(smallest))
"""

from __future__ import annotations

from collections import Counter

from pytest_elastic.errors import DivergenceError
from pytest_elastic.faults import parse
from pytest_elastic.faults._recording import Entry, Recording, load
from pytest_elastic.launch._canonical import UnsuitedError, steps_of
from pytest_elastic.launch._token import Order, fingerprint
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

_EXACT = ("kill", "exit", "drop")


def simulated(function: RankFunction, recording: Recording) -> Execution:
    """Run the order of a recording in the simulator.

    Args:
        function: what the ranks did when recorded.

    Returns:
        The execution, for `shrink` and `schedule_of`; its verdict says what is wrong with it.

    Raises:
        DivergenceError: the function does something else.
    """
    steps = [entry for entry in recording.entries if entry.begins or entry.expires]
    order: list[tuple[int, Kind]] = [(one.rank, "expire" if one.expires else "call") for one in steps]
    expiries = sum(one.expires for one in steps)
    setting = Setting(
        recording.header["nprocs"],
        faults=parse(recording.header.get("faults", "")),
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
    """The token that forces the order of an execution on real ranks (`--elastic-replay`).

    Raises:
        UnsuitedError: real ranks cannot be made to do so: time, or the store's other wake rule, has a part.
    """
    setting = execution.setting
    if setting.wake != "latched" or any(fault.kind not in _EXACT for fault in setting.faults):
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
    return str(Order(counts, delays_of(decisions), program, setting.faults))


def _struck(execution: Execution) -> list[bool]:
    """For each step whether a fault ended its rank right there: on real ranks it is then never applied."""
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
