"""What the faults of a plan do to simulated ranks.

A fault that is due at an operation happens before the operation has any effect: `Run.call` asks here first.
One that is due at a line happens when the line has been written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_elastic.errors import DistNetworkError
from pytest_elastic.faults import Fault, Watch, lost_answer
from pytest_elastic.simulator._scheduler import Step
from pytest_elastic.simulator._seat import ASLEEP, ENDED, READY, Seat
from pytest_elastic.store import OPERATIONS

if TYPE_CHECKING:
    from pytest_elastic.simulator._run import Run


def strike(run: Run, seat: Seat, watch: Watch) -> bool:
    """Let the faults happen that are due at a rank's pending operation; whether it must not be done now."""
    step = seat.step
    return _happen(run, seat, watch.called(step.rank, step.name, _named(step)))


def strike_at_line(run: Run, seat: Seat, faults: Sequence[Fault]) -> None:
    """Let the faults happen that are due at a line which a rank, the one that is running, has written."""
    _happen(run, seat, faults)
    if seat.unwinding:  # It need not be told by another: it ends where it is.
        run.ready.remove(seat.number)


def _happen(run: Run, seat: Seat, faults: Sequence[Fault]) -> bool:
    held = False
    for fault in faults:
        victim = seat if fault.rank is None else run.seats[fault.rank]
        run.execution.steps.append(Step(victim.number, "fault", fault.kind, (str(fault),)))
        run.execution.enabled.append(())
        if victim.status != ENDED:
            held |= _STRIKE[fault.kind](run, victim, fault) and victim is seat
    return held


def _named(step: Step) -> tuple[str, ...]:
    """The keys as the operation's caller named them."""
    return OPERATIONS[step.name].keys(step.arguments)


def _kill(run: Run, victim: Seat, fault: Fault) -> bool:
    run.execution.killed[victim.number] = fault
    run.kill(victim)
    return True


def _stop(run: Run, victim: Seat, fault: Fault) -> bool:
    if fault.seconds is not None:
        victim.alarms["stop"] = run.clock.now + fault.seconds
    victim.freeze(True)
    run.offer(victim)
    return True


def _resume(run: Run, victim: Seat, fault: Fault) -> bool:
    if victim.frozen:
        run.thaw(victim)
    return False


def _delay(run: Run, victim: Seat, fault: Fault) -> bool:
    assert fault.seconds is not None
    victim.status = ASLEEP
    victim.set_alarm("delay", run.clock.now + fault.seconds)
    return True


def _drop(run: Run, victim: Seat, fault: Fault) -> bool:
    try:
        victim.answer = lost_answer(run.state, (victim.step.name, *victim.step.arguments))
    except Exception as error:
        victim.error = error
    victim.excused, victim.status = False, READY
    run.ready.append(victim.number)
    return True


def _lose_server(run: Run, victim: Seat, fault: Fault) -> bool:
    run.gone = True
    for seat in run.seats:
        if seat.waiter is not None:
            run.fail(seat, DistNetworkError("the store's server is gone"))
    return False


_STRIKE: dict[str, Callable[[Run, Seat, Fault], bool]] = {
    "kill": _kill,
    "exit": _kill,
    "stop": _stop,
    "resume": _resume,
    "delay": _delay,
    "late_join": _delay,
    "drop": _drop,
    "server_gone": _lose_server,
}
