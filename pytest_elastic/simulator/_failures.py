"""Verdicts on executions: how they fail, and how an execution is judged.

| what happened                                    | verdict                | a failure                   |
|--------------------------------------------------|------------------------|-----------------------------|
| a rank does not reach a scheduling point         | `UncontrolledBlocking` | yes                         |
| an exception left a rank's function              | `RankFailed`           | yes                         |
| an expiring timer killed a rank                  | `TimerExpired`         | yes                         |
| ranks run, and nothing changes any more          | `Livelock`             | yes                         |
| ranks wait, none can run, no deadline is set     | `Deadlock`             | yes                         |
| ranks wait, none can run, a deadline is set      | `HangUntilTimeout`     | unless `may_timeout`        |
| one schedule enables other steps the second time | `Nondeterminism`       | yes, found by running again |
| every rank returned, or was killed by a fault    | none                   | no                          |

A timeout may be expected by the whole run, or by a rank in one wait (`store.wait(..., may_timeout=True)`).
The first row that fits is the verdict: an exception that makes others wait is the cause, not the wait.

A verdict has a `key`, which is the same for the same defect under another schedule, and raises itself from a
line of its own (`throw`), since Hypothesis tells failures apart by type and line.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pytest_elastic.errors import ElasticError
from pytest_elastic.hang import Diagnosis
from pytest_elastic.scheduling import Step
from pytest_elastic.simulator._cause import cause_of
from pytest_elastic.simulator._crew import Stuck
from pytest_elastic.simulator._execution import Blocked, Execution
from pytest_elastic.wording import name_ranks

_PACKAGE = str(Path(__file__).parent.parent)


class Verdict(ElasticError):
    """Base class of the verdicts on an execution.

    Attributes:
        ranks: the ranks concerned, the cause first.
        diagnosis: what the report of a hang on real ranks would say: verdict, ranks at fault, keys or
            collectives, cause; `None` where nobody waits in vain and no collectives mismatch.
    """

    ranks: list[int]
    diagnosis: Diagnosis | None = None

    def explain(self, diagnosis: Diagnosis | None) -> None:
        """Take up a diagnosis, and show its cause in a note."""
        self.diagnosis = diagnosis
        if diagnosis is not None:
            self.add_note(f"cause: {diagnosis.cause}")
            if diagnosis.snapshot.note:
                self.add_note(diagnosis.snapshot.note)

    @property
    def key(self) -> tuple[object, ...]:
        """Identity of the defect: equal under another schedule."""
        return (type(self).__name__, *sorted(self.ranks))

    def __init_subclass__(cls) -> None:
        cls.__module__ = "pytest_elastic.simulator"  # Where its users find it, as reports say.

    def throw(self) -> NoReturn:
        """Raise this verdict from a line of its own."""
        __tracebackhide__ = True
        raise self


class RankFailed(Verdict):
    """An exception left a rank's function; others may wait for it.

    Attributes:
        rank: the first rank that failed.
        type_name: the exception's type; the exception itself is `__cause__`, until the verdict is pickled.
        place: `file:line` in the rank's code.
        trace: the traceback, as text.
        blocked: the ranks that waited at the end.

    >>> from pytest_elastic.simulator import simulate
    >>> simulate(lambda rank, world_size, store: 1 // rank, ranks=2).verdict.type_name
    'ZeroDivisionError'
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
        __tracebackhide__ = True
        raise self


class TimerExpired(Verdict):
    """A timer of `pytest_elastic.timer` ended a rank.

    Attributes:
        rank: the first rank that a timer ended.
        scope: the timer's name.
        blocked: the ranks that waited at the end.
    """

    def __init__(self, rank: int, scope: str, blocked: tuple[Blocked, ...]) -> None:
        self.rank, self.ranks, self.scope, self.blocked = rank, [rank], scope, blocked
        super().__init__(f"the timer {scope!r} of rank {rank} expired{_waits(blocked)}")

    def throw(self) -> NoReturn:
        raise self


class Deadlock(Verdict):
    """Ranks wait for ever, for keys that no rank can set.

    Attributes:
        blocked: the waiting ranks and their keys.
        fates: how the other ranks ended, in words.
    """

    def __init__(self, blocked: tuple[Blocked, ...], fates: tuple[str, ...] = ()) -> None:
        self.blocked, self.fates, self.ranks = blocked, fates, [each.rank for each in blocked]
        super().__init__(f"deadlock of {name_ranks(self.ranks)}{_waits(blocked, fates)}")

    def throw(self) -> NoReturn:
        raise self


class HangUntilTimeout(Verdict):
    """Ranks wait until a timeout, for keys that no rank can set before.

    Attributes:
        blocked: the waiting ranks and their keys.
        seconds: virtual seconds until the first deadline.
        fates: how the other ranks ended, in words.

    >>> from pytest_elastic.simulator import simulate
    >>> simulate(lambda rank, world_size, store: store.get("never"), ranks=2).verdict.seconds
    300.0
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
    """Ranks run for ever without progress, though each gets its turn.

    Attributes:
        steps: the latest steps.
    """

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps, self.ranks = steps, sorted({step.rank for step in steps})
        last = {step.rank: step for step in steps}
        doing = "".join(f"\n  {last[rank]}" for rank in self.ranks)
        super().__init__(f"livelock of {name_ranks(self.ranks)}, which do again and again:{doing}")

    def throw(self) -> NoReturn:
        raise self


class UncontrolledBlocking(Verdict):
    """A rank blocks or computes outside of the simulator's control, so nothing is known of the others.

    Attributes:
        rank: the rank.
        stack: its stack, as text.
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
    """Two executions of one schedule differ: the program depends on something else than the schedule.

    Attributes:
        at: number of the first step that differs.
        once: the enabled steps there in the first execution.
        again: the enabled steps there in the second execution.
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


def judge(execution: Execution, stuck: Stuck | None) -> Verdict | None:
    """Verdict on an execution that ran to its end."""
    if stuck is not None:
        return UncontrolledBlocking(stuck.member, "".join(stuck.stack))
    found = _verdict(execution)
    if found is not None and not isinstance(found, Livelock):
        found.explain(cause_of(execution))
    return found


def _verdict(execution: Execution) -> Verdict | None:
    blocked = execution.blocked
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
    """The first difference between two executions of one schedule, `None` if their steps are the same.

    >>> from pytest_elastic.simulator import simulate
    >>> def count(rank, world_size, store):
    ...     return store.add("count", 1)
    >>> compare(simulate(count, ranks=2), simulate(count, ranks=2)) is None
    True
    """
    firsts, seconds = _choices(once), _choices(again)
    for at in range(max(len(firsts), len(seconds))):
        first, second = firsts[at : at + 1], seconds[at : at + 1]
        if first != second:
            return Nondeterminism(at, first[0] if first else (), second[0] if second else ())
    return None


def _choices(execution: Execution) -> list[tuple[Step, ...]]:
    pairs = zip(execution.enabled, execution.steps, strict=True)
    return [tuple(steps) or (done,) for steps, done in pairs]


def place_of(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Source location of the innermost frame outside of this package and torch, `file:line`; `"?"` for none.

    Args:
        frames: frames and line numbers, outermost first.
    """
    torch = sys.modules.get("torch")
    inner = (_PACKAGE,) if torch is None else (_PACKAGE, str(Path(torch.__file__ or "").parent), "<")
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    theirs = [f"{file}:{line}" for file, line in places if not file.startswith(inner)]
    return theirs[-1] if theirs else "?"
