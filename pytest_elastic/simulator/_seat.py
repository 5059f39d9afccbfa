"""A simulated rank, from its own side: what it is about to do, what it waits for, what it got."""

from __future__ import annotations

import math
import random
from typing import Any, Protocol

from pytest_elastic.simulator._scheduler import Kind, Step
from pytest_elastic.simulator._task import Crew
from pytest_elastic.store import Waiter

# What a rank is doing: it has code to run, stands at a step, waits for the store, waits for time, has ended.
READY, PENDING, BLOCKED, ASLEEP, ENDED = range(5)

# The alarms that are no deadlines: what ends by itself is no hang.
_PASSING = frozenset({"sleep", "delay", "stop"})


# A named tuple's own constructor takes twice as long.
_new = tuple.__new__


class Unwind(BaseException):
    """Ends a rank's function: it was killed, or the execution is over."""


class Table(Protocol):
    """What a seat needs of the execution."""

    crew: Crew
    current: int
    over: bool

    def next(self) -> int:
        """Who runs next."""

    def now(self, speed: float) -> float:
        """Virtual seconds on a clock of this speed."""

    def wrote(self, seat: Seat, line: str) -> None:
        """A rank wrote a line of output."""


class Seat:
    """One rank of one execution.

    Attributes:
        status: see above.
        step: the last that it came to.
        seconds: how long that may wait; `may_timeout` if its timeout is counted on.
        alarms: virtual times at which something happens to it by itself, by what.
        due: the earliest of them that counts, `math.inf` for none.
        woken: its wait is to be looked at again.
        frozen: it is stopped by a fault.
        excused: the faults of its pending step have been dealt with.
        line: what it wrote since its last end of line.
        unwinding: it will not come to another step.
    """

    status = READY
    seconds = began = 0.0
    waiter: Waiter | None = None
    due = math.inf
    woken = frozen = excused = unwinding = may_timeout = False
    answer: Any = None
    line = ""
    error: BaseException | None = None
    source: random.Random | None = None

    def __init__(self, table: Table, number: int, speed: float) -> None:
        self.table, self.number, self.speed = table, number, speed
        self.step = Step(number, "point", "start")
        self.alarms: dict[str, float] = {}

    def reach(self, kind: Kind, name: str, arguments: tuple[Any, ...]) -> Any:
        """Come to a scheduling point; returns when the step is done, with its answer."""
        __tracebackhide__ = True
        table, number = self.table, self.number
        if not table.crew.runs(number):
            raise RuntimeError(f"what belongs to simulated rank {number} was used by another rank or thread")
        if self.unwinding or table.over:
            raise Unwind
        self.step, self.status = _new(Step, (number, kind, name, arguments)), PENDING
        table.crew.beat += 1
        to = table.next()
        if to != number:
            table.current = to
            table.crew.switch(number, to)
        if self.unwinding:
            raise Unwind
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.answer

    def now(self) -> float:
        """Virtual seconds on the rank's own clock."""
        return self.table.now(self.speed)

    def wrote(self, text: str) -> None:
        """It wrote this to its output, where faults may wait for a line."""
        *lines, self.line = f"{self.line}{text}".split("\n")
        for line in lines:
            self.table.wrote(self, line)
            if self.unwinding:
                raise Unwind

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.reach("sleep", "sleep", (float(seconds),))

    def chance(self) -> random.Random:
        """The rank's own source of random numbers."""
        if self.source is None:
            self.source = random.Random(self.number)
        return self.source

    def set_alarm(self, name: str, at: float) -> None:
        """Something will happen at this virtual time."""
        self.alarms[name] = at
        self._find_due()

    def clear_alarm(self, name: str) -> None:
        """It will not, after all."""
        if self.alarms.pop(name, None) is not None:
            self._find_due()

    def freeze(self, frozen: bool) -> None:
        """Stop, or go on: a stopped rank has no time but for the end of the stop."""
        self.frozen = frozen
        self._find_due()

    def _find_due(self) -> None:
        if self.frozen:
            self.due = self.alarms.get("stop", math.inf)
        else:
            self.due = min(self.alarms.values(), default=math.inf)

    @property
    def passes(self) -> bool:
        """Whether it will go on by itself, and that is no hang."""
        if self.due == math.inf:
            return False
        return bool(self.alarms.keys() & _PASSING) or (self.may_timeout and "wait" in self.alarms)

    def alarm(self) -> str:
        """The name of the alarm that `due` is about."""
        return next(
            name for name, at in self.alarms.items() if at == self.due and (not self.frozen or name == "stop")
        )
