"""A simulated rank: its state, its alarms, and its handle on the store."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_elastic.scheduling import Kind, Step
from pytest_elastic.store import Asked, Handle, Waiter

if TYPE_CHECKING:
    from pytest_elastic.simulator._run import SimulatedRun

# Values of `status`: has code to run, stands at a step, waits for the store, waits for time, has ended.
READY, PENDING, BLOCKED, ASLEEP, ENDED = range(5)

# Alarms that end by themselves: a rank that waits for one does not hang.
_PASSING = frozenset({"sleep", "delay", "stop"})


# Twice as fast as a named tuple's own constructor.
_new = tuple.__new__


class Unwind(BaseException):
    """Ends a rank's function because the rank was killed or the execution is over."""


class SimulatedRank:
    """State of one rank during one execution.

    Attributes:
        status: `READY`, `PENDING`, `BLOCKED`, `ASLEEP` or `ENDED`.
        step: its latest scheduling point.
        seconds: timeout of that operation.
        may_timeout: whether the rank expects that timeout.
        alarms: names and virtual times of its alarms.
        due: virtual time of the earliest alarm that counts; `math.inf` for none.
        woken: its wait must be checked again (`"level"` rule).
        stopped: a fault has stopped it.
        struck: the faults due at its pending operation have happened.
        line: its output since the last end of line.
        unwinding: its function is being ended and reaches no other step.
        keep: called before another rank runs, its answer when this one goes on: for what a process has once.
    """

    status = READY
    seconds = began = 0.0
    waiter: Waiter | None = None
    due = math.inf
    woken = stopped = struck = unwinding = may_timeout = False
    answer: Any = None
    line = ""
    error: BaseException | None = None
    source: random.Random | None = None
    keep: Callable[[], Callable[[], None]] | None = None

    def __init__(self, run: SimulatedRun, number: int, speed: float) -> None:
        self.run, self.number, self.speed = run, number, speed
        self.step = Step(number, "point", "start")
        self.alarms: dict[str, float] = {}

    def reach(self, kind: Kind, name: str, arguments: tuple[Any, ...]) -> Any:
        """Wait at a scheduling point until the scheduler has chosen this step; returns its answer."""
        __tracebackhide__ = True
        run, number = self.run, self.number
        if not run.crew.runs(number):
            raise RuntimeError(f"the store of simulated rank {number} was used by another rank or thread")
        if self.unwinding or run.over:
            raise Unwind
        self.step, self.status = _new(Step, (number, kind, name, arguments)), PENDING
        run.crew.beat += 1
        to = run.next()
        if to != number:
            run.current = to
            restore = None if self.keep is None else self.keep()
            run.crew.switch(number, to)
            if restore is not None:
                restore()
        if self.unwinding:
            raise Unwind
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.answer

    def now(self) -> float:
        """Virtual seconds on the rank's own clock."""
        return self.run.now(self.speed)

    def wrote(self, text: str) -> None:
        """Report output of the rank; faults may be due at a line of it."""
        *lines, self.line = f"{self.line}{text}".split("\n")
        for line in lines:
            self.run.wrote(self, line)
            if self.unwinding:
                raise Unwind

    def chance(self) -> random.Random:
        """The rank's own source of random numbers."""
        if self.source is None:
            self.source = random.Random(self.number)
        return self.source

    def set_alarm(self, name: str, at: float) -> None:
        """Set an alarm to a virtual time."""
        self.alarms[name] = at
        self.update_due()

    def clear_alarm(self, name: str) -> None:
        """Remove an alarm, if it is set."""
        if self.alarms.pop(name, None) is not None:
            self.update_due()

    def set_stopped(self, stopped: bool) -> None:
        """Stop the rank or let it continue; of a stopped rank only the end of the stop is due."""
        self.stopped = stopped
        self.update_due()

    def update_due(self) -> None:
        if self.stopped:
            self.due = self.alarms.get("stop", math.inf)
        else:
            self.due = min(self.alarms.values(), default=math.inf)

    @property
    def passes(self) -> bool:
        """Whether the rank continues by itself, by a sleep or an expected timeout; then it does not hang."""
        if self.due == math.inf:
            return False
        return bool(self.alarms.keys() & _PASSING) or (self.may_timeout and "wait" in self.alarms)

    def alarm(self) -> str:
        """Name of the alarm that is due at `due`."""
        if self.stopped:
            return "stop"
        return next(name for name, at in self.alarms.items() if at == self.due)


class SimulatedStore(Handle):
    """A rank's handle on the simulated store: every operation is a scheduling point.

    Only its own rank may use it, while the rank's function runs.
    """

    def __init__(self, rank: SimulatedRank) -> None:
        super().__init__()
        self.rank = rank

    def clone(self) -> SimulatedStore:
        """A handle on the same data with its own timeout, equal at first."""
        other = SimulatedStore(self.rank)
        other.set_timeout(self._timeout)
        return other

    def _call(self, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        if arguments and type(arguments[0]) is list:
            arguments = tuple(map(tuple, arguments))  # So that steps can be hashed.
        return self.rank.reach("call", name, arguments)

    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        asked = arguments[0]
        if isinstance(asked, list):
            arguments = (tuple(asked),)
        self.rank.seconds, self.rank.may_timeout = seconds, type(asked) is Asked and asked.may_timeout
        return self.rank.reach("call", name, arguments)
