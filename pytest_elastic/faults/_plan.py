"""Fault plans: what shall happen to which rank, and when.

*Rules.*  A fault has one victim and one trigger, and happens once.  A trigger is the n-th time that a rank
does something: any operation of the store (`op`), one on a key that matches a pattern (`key`), an arrival at
a barrier (`barrier`), a line of its output that contains a text (`line`).  The rank is the victim, unless
`of` names another one.  A rank is resumed by what happens while it is stopped; what happened before does not
count.  What happens at an operation happens before the operation has any effect, so that
`op=n` is "after its first n - 1 operations"; an operation is one request to the store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.pristine import signal

Kind = Literal["kill", "exit", "stop", "resume", "delay", "drop", "late_join", "server_gone"]
Where = Literal["op", "key", "barrier", "line"]

KINDS: tuple[Kind, ...] = ("kill", "exit", "stop", "resume", "delay", "drop", "late_join", "server_gone")
WHERES: tuple[Where, ...] = ("op", "key", "barrier", "line")
_SMALLEST = 1e-6  # Seconds: spans are whole microseconds, so that their text is exact.
_LONGEST = 1e6
_CODES = 256


@dataclass(frozen=True, slots=True)
class Trigger:
    """The `nth` time that `rank` does something.

    Attributes:
        where: `"op"`, `"key"`, `"barrier"` or `"line"`.
        text: the key's pattern (`*`, `?`, `[...]`), the barrier's name or pattern, a part of the line.
        nth: from 1.
        rank: whose doing; `None` is the victim's, and anybody's where there is no victim.
    """

    where: Where
    text: str = ""
    nth: int = 1
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.where not in WHERES:
            raise FaultPlanError(f"a trigger at {self.where!r}", f"one of {', '.join(WHERES)}")
        if type(self.nth) is not int or self.nth < 1:
            raise FaultPlanError(f"{'op' if self.where == 'op' else 'nth'}={self.nth!r}", "a number from 1")
        if not _is_text(self.text) or bool(self.text) == (self.where == "op"):
            raise FaultPlanError(f"{self.where}={self.text!r}", "a text that is not empty")
        _check_rank("of", self.rank, True)

    def __repr__(self) -> str:
        parts = [f"op={self.nth}" if self.where == "op" else f"{self.where}={self.text!r}"]
        if self.where != "op" and self.nth != 1:
            parts.append(f"nth={self.nth}")
        if self.rank is not None:
            parts.append(f"of={self.rank}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; made by `kill`, `exit`, ... and by `parse`.

    Attributes:
        kind: what happens.
        rank: the victim; `None` for `"server_gone"` only.
        trigger: when.
        seconds: of `"delay"`, `"late_join"` and `"stop"`; `None` for a stop that only `"resume"` ends.
        code: of `"exit"`.
    """

    kind: Kind
    rank: int | None
    trigger: Trigger
    seconds: float | None = None
    code: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FaultPlanError(f"a fault {self.kind!r}", f"one of {', '.join(KINDS)}")
        _check_rank("rank", self.rank, self.kind == "server_gone")
        if self.kind == "server_gone" and self.rank is not None:
            raise FaultPlanError(f"server_gone of rank {self.rank}", "of= to say whose doing is the trigger")
        if self.trigger.rank is not None and self.trigger.rank == self.rank:  # One spelling for one thing.
            trigger = Trigger(self.trigger.where, self.trigger.text, self.trigger.nth)
            object.__setattr__(self, "trigger", trigger)
        if self.kind == "resume" and self.trigger.rank is None:
            raise FaultPlanError(
                "resume without of", "of=: a stopped rank does nothing that could be a trigger"
            )
        if self.kind in ("delay", "drop") and (self.trigger.rank is not None or self.trigger.where == "line"):
            raise FaultPlanError(
                repr(self), f"op, key or barrier of the rank itself: {self.kind} is about it"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        timed = self.kind in ("delay", "late_join") or (self.kind == "stop" and self.seconds is not None)
        if timed:
            object.__setattr__(self, "seconds", _span(self.kind, self.seconds))
        elif self.seconds is not None:
            raise FaultPlanError(f"{self.kind} with seconds", "seconds for delay, late_join and stop only")
        coded = type(self.code) is int and 0 <= self.code < _CODES
        if coded != (self.kind == "exit") or (self.code is not None and not coded):
            raise FaultPlanError(f"{self.kind} with code={self.code!r}", "code=0 to 255, for exit only")

    @property
    def watched(self) -> int | None:
        """The rank whose doing is the trigger; `None` is anybody's."""
        return self.rank if self.trigger.rank is None else self.trigger.rank

    def __repr__(self) -> str:
        parts = [] if self.rank is None else [f"rank={self.rank}"]
        if self.code is not None:
            parts.append(f"code={self.code}")
        if self.seconds is not None:
            parts.append(f"{'seconds' if self.kind == 'stop' else 'by'}={self.seconds!r}")
        if self.kind != "late_join":
            parts.append(repr(self.trigger))
        return f"{self.kind}({', '.join(parts)})"

    def __str__(self) -> str:
        from pytest_elastic.faults._text import fault_text

        return fault_text(self)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults that belong to one run; `|` joins plans, `str` is the text that `parse` reads."""

    faults: tuple[Fault, ...] = ()

    def __or__(self, other: FaultPlan) -> FaultPlan:
        if not isinstance(other, FaultPlan):
            return NotImplemented
        return FaultPlan(self.faults + other.faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.faults)) or "FaultPlan()"

    def __str__(self) -> str:
        return "+".join(map(str, self.faults))

    @property
    def ends(self) -> dict[int, int]:
        """How it ends ranks: rank -> exit code, negative for a signal."""
        codes = {"kill": -signal.SIGKILL, "exit": 0}
        return {fault.rank: fault.code or codes[fault.kind] for fault in self if fault.kind in codes}  # type: ignore[misc]

    def check(self, nprocs: int) -> None:
        """Check that every rank of the plan is one of `nprocs`.

        Raises:
            FaultPlanError: one is not.
        """
        __tracebackhide__ = True
        for fault in self.faults:
            for rank in (fault.rank, fault.watched):
                if rank is not None and rank >= nprocs:
                    raise FaultPlanError(f"rank {rank} in {fault!r}", f"ranks 0 to {nprocs - 1} here")


class At(TypedDict, total=False):
    """When: one of `op`, `key`, `barrier`, `line`, the n-th match (`nth`), of another rank (`of`)."""

    op: int
    key: str
    barrier: str
    line: str
    nth: int
    of: int


def kill(rank: int, **at: Unpack[At]) -> FaultPlan:
    """SIGKILL."""
    return _plan("kill", rank, at)


def exit(rank: int, code: int, **at: Unpack[At]) -> FaultPlan:
    """The rank's process ends at once with this exit code, 0 to 255."""
    return FaultPlan((Fault("exit", rank, _trigger("exit", at), code=code),))


def stop(rank: int, seconds: float | None = None, **at: Unpack[At]) -> FaultPlan:
    """SIGSTOP, and SIGCONT after `seconds`; without them only a `resume` ends it."""
    return _plan("stop", rank, at, seconds)


def resume(rank: int, **at: Unpack[At]) -> FaultPlan:
    """SIGCONT to a stopped rank, when the rank `of` does something meanwhile."""
    return _plan("resume", rank, at)


def delay(rank: int, by: float, **at: Unpack[At]) -> FaultPlan:
    """The operation takes effect and is answered `by` seconds later."""
    return _plan("delay", rank, at, by)


def drop(rank: int, **at: Unpack[At]) -> FaultPlan:
    """The write has no effect, and the rank is told that it had."""
    return _plan("drop", rank, at)


def late_join(rank: int, by: float) -> FaultPlan:
    """The rank's first operation comes `by` seconds late."""
    return FaultPlan((Fault("late_join", rank, Trigger("op"), by),))


def server_gone(**at: Unpack[At]) -> FaultPlan:
    """The store hangs up on everybody; `op=n` counts everybody's operations where `of` names no rank."""
    return _plan("server_gone", None, at)


def kill_points(operations: Mapping[int, int]) -> list[FaultPlan]:
    """A plan for each single kill: rank r before each of its `operations[r]` operations."""
    return [kill(rank, op=op) for rank, count in operations.items() for op in range(1, count + 1)]


def _plan(kind: Kind, rank: int | None, at: At, seconds: float | None = None) -> FaultPlan:
    return FaultPlan((Fault(kind, rank, _trigger(kind, at), seconds),))


def _trigger(kind: str, at: At) -> Trigger:
    given: dict[str, object] = dict(at)
    unknown = [name for name in given if name not in (*WHERES, "nth", "of")]
    where = [name for name in WHERES if name in given]
    if unknown or len(where) != 1 or (where == ["op"] and "nth" in given):
        what = f"{kind}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
        raise FaultPlanError(what, "exactly one of op, key, barrier, line; then nth (not with op) and of")
    if where == ["op"]:
        return Trigger("op", "", at["op"], at.get("of"))
    return Trigger(where[0], given[where[0]], at.get("nth", 1), at.get("of"))  # type: ignore[arg-type]


def _is_text(text: object) -> bool:
    return isinstance(text, str) and text.encode("utf-8", "replace").decode() == text


def _check_rank(name: str, rank: object, optional: bool) -> None:
    if (rank is None and optional) or (type(rank) is int and rank >= 0):
        return
    raise FaultPlanError(f"{name}={rank!r}", "a rank from 0")


def _span(kind: str, seconds: object) -> float:
    """Whole microseconds."""
    number = math.nan if isinstance(seconds, bool) or not isinstance(seconds, int | float) else float(seconds)
    if not _SMALLEST <= number <= _LONGEST:
        name = "seconds" if kind == "stop" else "by"
        raise FaultPlanError(f"{kind} with {name}={seconds!r}", f"{_SMALLEST:g} to {_LONGEST:g} seconds")
    return round(number * 1e6) / 1e6
