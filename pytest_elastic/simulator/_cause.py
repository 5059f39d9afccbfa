"""The cause of a failed execution, by the wait graph: the same verdicts as on real ranks.

*Theory of operation.*  The steps of the execution are done again, on a store of their own, whose reporter
tells the wait graph what it would tell of real ranks.  That is done for executions that failed only.
"""

from __future__ import annotations

from typing import Any

from pytest_elastic.events import Event, PhaseEnded, RankExited
from pytest_elastic.faults import ENDS, Fault, parse
from pytest_elastic.hang import Diagnosis, WaitGraph, diagnose
from pytest_elastic.scheduling import Step
from pytest_elastic.simulator._execution import Execution
from pytest_elastic.store import FAILED, OPERATIONS, Reporter, Request, StoreState, Waiter

_PASSES = frozenset({"resume", "server_gone"})  # Faults that hold nobody back.


class _Connection:
    """A rank's connection to a store, as far as the reporter asks."""

    def __init__(self, rank: int) -> None:
        self.label, self.whose = rank, (rank, rank)


class _Repetition:
    """An execution's steps, done again on a store of their own."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.graph = WaitGraph(execution.setting.ranks)
        self.state = StoreState(execution.setting.wake)
        self.waiters: dict[int, Waiter] = {}
        self._connections = [_Connection(rank) for rank in range(execution.setting.ranks)]
        self._reporter = Reporter(self.take, self.state, ())
        self._at = 0.0
        self._seconds = {one.rank: one.deadline - execution.now for one in execution.blocked}

    def take(self, event: Event) -> None:
        self._at = event.at
        self.graph.take(event)

    def do(self, step: Step, held: bool) -> None:
        """Do one step, unless a fault held it back."""
        waiter = self.waiters.get(step.rank)
        if step.kind == "call" and not held:
            self.call(step)
        elif step.kind == "resume" and waiter is not None:
            self.state.resume(waiter)
            self.end(step.rank, "done") if waiter.done else None
        elif step.kind == "expire" and step.name in OPERATIONS and waiter is not None:
            self.state.abandon(waiter)
            self.end(step.rank, "timed out")
        elif step.kind == "expire" and step.name.startswith("timer "):
            self.leave(step.rank, -9, f"{step.name} expired")
        elif step.kind == "fault" and step.name in ENDS:
            (fault,) = parse(step.arguments[0])
            self.leave(step.rank, fault.code or ENDS[fault.kind])
        self._wake()

    def call(self, step: Step) -> None:
        request = Request(self._connections[step.rank], OPERATIONS[step.name], list(step.arguments))
        request.seconds = self._seconds.get(step.rank, 0.0)
        try:
            answer: Any = self.state.apply((step.name, *step.arguments), step.rank)
        except Exception:
            self._reporter.called(request, FAILED)
            return
        if isinstance(answer, Waiter):
            self.waiters[step.rank] = answer
            self._reporter.waits(request, answer)
        else:
            self._reporter.called(request, answer)

    def end(self, rank: int, how: str) -> None:
        """A rank's wait ends."""
        self.waiters.pop(rank, None)
        self._reporter.ended([self._connections[rank]], how)  # type: ignore[list-item]

    def leave(self, rank: int, exitcode: int, text: str = "") -> None:
        """A rank dies."""
        if (waiter := self.waiters.get(rank)) is not None:
            self.state.abandon(waiter)
            self.end(rank, "gone")
        self.take(RankExited(self._at, rank, exitcode, text))

    def finish(self) -> None:
        """Tell who failed, in that order, and then who returned."""
        execution = self.execution
        for rank, error in execution.errors.items():
            text = f"{type(error).__name__}: {error}"
            self.take(PhaseEnded(self._next(), rank, "call", "failed", text))
        busy = {one.rank for one in execution.blocked} | {*execution.stopped, *execution.errors}
        for rank in range(execution.setting.ranks):
            if rank not in busy | execution.killed.keys() | execution.expired.keys():
                self.take(PhaseEnded(self._next(), rank, "call", "passed"))
                self.take(RankExited(self._at, rank, 0))  # It waits for no other phase.

    def _next(self) -> float:
        self._at += 1e-6
        return self._at

    def _wake(self) -> None:
        woken, self.state.woken = self.state.woken, []
        for waiter in woken:
            if waiter.done and isinstance(waiter.client, int):
                self.end(waiter.client, "done")


def cause_of(execution: Execution) -> Diagnosis | None:
    """What the wait graph says of a failed execution; `None` where nobody waits in vain.

    An execution whose store was taken away by a fault has no diagnosis.
    """
    faults = [
        next(iter(parse(step.arguments[0]))) if step.kind == "fault" else None for step in execution.steps
    ]
    if any(fault is not None and fault.kind == "server_gone" for fault in faults):
        return None
    repetition = _Repetition(execution)
    for number, step in enumerate(execution.steps):
        repetition.do(step, _is_held(step, faults[number + 1 :]))
    repetition.finish()
    return diagnose(repetition.graph)


def _is_held(step: Step, following: list[Fault | None]) -> bool:
    """Whether one of the faults that come right after an operation kept it from being done."""
    for fault in following:
        if fault is None or fault.trigger.where == "line":
            return False
        if fault.rank == step.rank and fault.kind not in _PASSES:
            return True
    return False
