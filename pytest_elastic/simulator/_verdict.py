"""What can be wrong with an execution.

| what happened                                  | verdict                | a failure                   |
|------------------------------------------------|------------------------|-----------------------------|
| a rank does not come to a scheduling point     | `UncontrolledBlocking` | yes                         |
| an exception left a rank's function            | `RankFailed`           | yes                         |
| an expiring timer killed a rank                | `TimerExpired`         | yes                         |
| ranks run, and nothing changes any more        | `Livelock`             | yes                         |
| ranks wait, nobody can run, no deadline is set | `Deadlock`             | yes                         |
| ranks wait, nobody can run, a deadline is set  | `HangUntilTimeout`     | unless one `may_timeout`    |
| the same schedule enables other steps          | `Nondeterminism`       | yes, found by running again |
| every rank returned, or was killed by a fault  | none                   | no                          |

A timeout may be counted on by the whole run, or by a rank in one wait (`store.wait(..., may_timeout=True)`).
The first row that fits is the verdict: an exception that makes others wait is the cause, not the wait.

Each has a `key`, which is the same for the same defect under another schedule, and raises itself from a line
of its own (`throw`), since Hypothesis tells failures apart by type and line.
"""

from __future__ import annotations

import traceback
from typing import NoReturn

from pytest_elastic.errors import ElasticError
from pytest_elastic.simulator._execution import Blocked
from pytest_elastic.simulator._place import place_of
from pytest_elastic.simulator._scheduler import Step
from pytest_elastic.wording import name_ranks


class Verdict(ElasticError):
    """Base of them.

    Attributes:
        ranks: which ranks it is about, the cause first.
    """

    ranks: list[int]

    @property
    def key(self) -> tuple[object, ...]:
        """What it has in common with the same defect under another schedule."""
        return (type(self).__name__, *sorted(self.ranks))

    def throw(self) -> NoReturn:
        """Raise it."""
        __tracebackhide__ = True
        raise self


class RankFailed(Verdict):
    """An exception left a rank's function; others may wait for it.

    Attributes:
        rank: the first one.
        type_name: the exception's type; itself it is the cause, as long as this is not pickled.
        place: `file:line` in the rank's code.
        trace: the traceback, as text.
        blocked: who waited at the end.
    """

    def __init__(self, rank: int, error: BaseException, blocked: tuple[Blocked, ...]) -> None:
        self.rank, self.ranks, self.blocked = rank, [rank], blocked
        trace = error.__traceback__
        inner = trace.tb_next if trace is not None else None  # Without our own frame.
        self.type_name, self.place = type(error).__name__, place_of(traceback.walk_tb(inner))
        self.trace = "".join(traceback.format_exception(type(error), error, inner))
        super().__init__(f"rank {rank} failed at {self.place}: {self.type_name}: {error}{_waits(blocked)}")
        self.__context__ = self.__cause__ = error

    @property
    def key(self) -> tuple[object, ...]:
        return ("RankFailed", self.rank, self.type_name, self.place)

    def throw(self) -> NoReturn:
        raise self


class TimerExpired(Verdict):
    """A timer of `pytest_elastic.timer` ended a rank.

    Attributes:
        rank: the first one.
        scope: the timer's name.
        blocked: who waited at the end.
    """

    def __init__(self, rank: int, scope: str, blocked: tuple[Blocked, ...]) -> None:
        self.rank, self.ranks, self.scope, self.blocked = rank, [rank], scope, blocked
        super().__init__(f"the timer {scope!r} of rank {rank} expired{_waits(blocked)}")

    def throw(self) -> NoReturn:
        raise self


class Deadlock(Verdict):
    """Ranks wait for what nobody can ever do.

    Attributes:
        blocked: who, and for what.
        fates: what became of the others, in words.
    """

    def __init__(self, blocked: tuple[Blocked, ...], fates: tuple[str, ...] = ()) -> None:
        self.blocked, self.fates, self.ranks = blocked, fates, [each.rank for each in blocked]
        super().__init__(f"deadlock of {name_ranks(self.ranks)}{_waits(blocked, fates)}")

    def throw(self) -> NoReturn:
        raise self


class HangUntilTimeout(Verdict):
    """Ranks wait for what nobody can do before a deadline.

    Attributes:
        blocked: who, and for what.
        seconds: how long, on the virtual clock, until the first deadline.
        fates: what became of the others, in words.
    """

    def __init__(self, blocked: tuple[Blocked, ...], seconds: float, fates: tuple[str, ...] = ()) -> None:
        self.blocked, self.seconds, self.fates = blocked, seconds, fates
        self.ranks = [each.rank for each in blocked]
        super().__init__(
            f"{name_ranks(self.ranks)} would hang for {seconds:g} s, until a timeout{_waits(blocked, fates)}"
        )

    def throw(self) -> NoReturn:
        raise self


class Livelock(Verdict):
    """Ranks run and get nowhere, though each has its turn.

    Attributes:
        steps: what they did last.
    """

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps, self.ranks = steps, sorted({step.rank for step in steps})
        last = {step.rank: step for step in steps}
        doing = "".join(f"\n  {last[rank]}" for rank in self.ranks)
        super().__init__(f"livelock of {name_ranks(self.ranks)}, which do again and again:{doing}")

    def throw(self) -> NoReturn:
        raise self


class UncontrolledBlocking(Verdict):
    """A rank blocks, or computes, outside of what the simulator controls: nothing is known of the others.

    Attributes:
        rank: which one.
        stack: where it stands, as text.
    """

    def __init__(self, rank: int, stack: str) -> None:
        self.rank, self.ranks, self.stack = rank, [rank], stack
        super().__init__(
            f"uncontrolled blocking: rank {rank} came to no operation of the store, sleep or point()"
            f" in time; it stands at\n{stack}"
        )

    def throw(self) -> NoReturn:
        raise self


class Nondeterminism(Verdict):
    """Two executions of one schedule differ: something else than the schedule decides.

    Attributes:
        at: the number of the first step that differs.
        once: what could be done there, the first time.
        again: what could be done there, the second time.
    """

    def __init__(self, at: int, once: tuple[Step, ...], again: tuple[Step, ...]) -> None:
        self.at, self.once, self.again = at, once, again
        self.ranks = sorted({step.rank for step in set(once) ^ set(again)})
        super().__init__(
            f"one schedule, two executions: they differ at step {at}"
            f"\n  once:  {_list(once)}\n  again: {_list(again)}"
        )

    def throw(self) -> NoReturn:
        raise self


def _list(steps: tuple[Step, ...]) -> str:
    return "; ".join(map(str, steps)) or "nothing more"


def _waits(blocked: tuple[Blocked, ...], fates: tuple[str, ...] = ()) -> str:
    return "".join(f"\n  {line}" for line in (*blocked, *fates))
