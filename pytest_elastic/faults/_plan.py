"""Fault plans: which fault shall happen to which rank, and when; in Python and as text.

*Rules.*  A fault has one victim and one trigger, and happens once.  A trigger is the n-th time that a rank
does something: any operation of the store (`op`), one on a key that matches a pattern (`key`), an arrival at
a barrier (`barrier`) or in a collective (`collective`), a line of its output that contains a text (`line`).
The rank is the victim, unless `of` names another one.  A rank is resumed by what happens while it is stopped;
what happened before does not count.  A fault at an operation comes before the operation has any effect, so
that `op=n` is "after its first n - 1 operations"; an operation is one request to the store.

*Text.*  It is short, and safe in a shell, a URL and a token.

    plan    = fault *("+" fault)
    fault   = letter [rank] "@" [rank ":"] trigger ["=" value]
    letter  = K kill, X exit, S stop, R resume, D delay, P drop (pretend), L late join, G server gone
    trigger = number | ("k" | "b" | "c" | "l") text ["," number]  operation; key, barrier, ... and which one
    value   = number ("s" | "ms" | "us")                        of S, D and L;  a number for X

The text of a trigger is percent-encoded but for letters, digits, `_` and `/`; so none of `+ . - ~ @ = ,` is
ever part of it.  `L1=200ms` has no trigger.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, TypeVar, Unpack, get_args
from urllib.parse import quote, unquote

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.pristine import signal

Kind = Literal["kill", "exit", "stop", "resume", "delay", "drop", "late_join", "server_gone"]
Where = Literal["op", "key", "barrier", "collective", "line"]

KINDS: dict[str, Kind] = dict(zip("KXSRDPLG", get_args(Kind), strict=True))  # By its letter in a text.
# Kinds whose victim does nothing more, with its exit code if the fault has none; whose victim goes on later.
ENDS: dict[Kind, int] = {"kill": -signal.SIGKILL, "exit": 0}
SLOWS: frozenset[Kind] = frozenset({"stop", "delay", "late_join"})
WHERES: tuple[Where, ...] = get_args(Where)
_LETTERS = {kind: letter for letter, kind in KINDS.items()}
_UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}  # In microseconds, biggest first.
_SMALLEST = 1e-6  # Seconds: spans are whole microseconds, so that their text is exact.
_LONGEST = 1e6
_NUMBER = "0|[1-9][0-9]{0,17}"
_FAULT = re.compile(
    rf"(?P<letter>[A-Z])(?P<rank>{_NUMBER})?"
    rf"(?:@(?:(?P<of>{_NUMBER}):)?(?:(?P<op>{_NUMBER})|"
    rf"(?P<where>[kbcl])(?P<text>(?:[A-Za-z0-9_/]|%[0-9A-F]{{2}})+)(?:,(?P<nth>{_NUMBER}))?))?"
    rf"(?:=(?P<value>{_NUMBER})(?P<unit>s|ms|us)?)?"
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """The trigger of a fault: the `nth` time that `rank` does something.

    Attributes:
        where: `"op"`, `"key"`, `"barrier"` or `"line"`.
        text: the key's pattern (`*`, `?`, `[...]`), the barrier's or collective's name or pattern, a part of
            the line.
        nth: from 1.
        rank: the rank that does it; `None` is the victim, and any rank where there is no victim.

    Raises:
        FaultPlanError: an attribute has a value that is not allowed.
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
        whole = isinstance(self.text, str) and self.text.encode("utf-8", "replace").decode() == self.text
        if not whole or bool(self.text) == (self.where == "op"):
            raise FaultPlanError(f"{self.where}={self.text!r}", "a text that is not empty")
        check_rank("of", self.rank, True)

    def __str__(self) -> str:
        of = "" if self.rank is None else f"{self.rank}:"
        if self.where == "op":
            return f"{of}{self.nth}"
        # `quote` deems some marks safe that are none here.
        text = re.sub(r"[-.~]", lambda mark: f"%{ord(mark[0]):02X}", quote(self.text, safe="/"))
        return f"{of}{self.where[0]}{text}" + ("" if self.nth == 1 else f",{self.nth}")

    def __repr__(self) -> str:
        parts = [f"op={self.nth}" if self.where == "op" else f"{self.where}={self.text!r}"]
        if self.where != "op" and self.nth != 1:
            parts.append(f"nth={self.nth}")
        if self.rank is not None:
            parts.append(f"of={self.rank}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan; made by `kill`, `exit`, ... and by `parse`.  `str` is its text.

    Attributes:
        kind: `"kill"`, `"exit"`, `"stop"`, `"resume"`, `"delay"`, `"drop"`, `"late_join"`, `"server_gone"`.
        rank: the victim; `None` for `"server_gone"` only.
        trigger: when it happens.
        seconds: of `"delay"`, `"late_join"` and `"stop"`; `None` for a stop that only `"resume"` ends.
        code: exit code of `"exit"`, 0 to 255.

    Raises:
        FaultPlanError: an attribute has a value that is not allowed.

    >>> [fault] = kill(rank=1, op=4)
    >>> fault.kind, fault.rank, fault.trigger
    ('kill', 1, op=4)
    """

    kind: Kind
    rank: int | None
    trigger: Trigger
    seconds: float | None = None
    code: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _LETTERS:
            raise FaultPlanError(f"a fault {self.kind!r}", f"one of {', '.join(KINDS.values())}")
        check_rank("rank", self.rank, self.kind == "server_gone")
        if self.kind == "server_gone" and self.rank is not None:
            raise FaultPlanError(f"server_gone of rank {self.rank}", "of= to say whose doing is the trigger")
        if self.trigger.rank is not None and self.trigger.rank == self.rank:  # One spelling for one thing.
            object.__setattr__(self, "trigger", replace(self.trigger, rank=None))
        if self.kind == "resume" and self.trigger.rank is None:
            allowed = "of=: a stopped rank does nothing that could be a trigger"
            raise FaultPlanError("resume without of", allowed)
        wrong = {"delay": ("line",), "drop": ("line", "collective")}.get(self.kind)
        if wrong is not None and (self.trigger.rank is not None or self.trigger.where in wrong):
            *names, last = (where for where in WHERES if where not in wrong)
            allowed = f"{', '.join(names)} or {last} of the rank itself: {self.kind} is about it"
            raise FaultPlanError(repr(self), allowed)
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.kind in ("delay", "late_join") or (self.kind == "stop" and self.seconds is not None):
            object.__setattr__(self, "seconds", whole_micros(self.kind, self.seconds))
        elif self.seconds is not None:
            raise FaultPlanError(f"{self.kind} with seconds", "seconds for delay, late_join and stop only")
        coded = type(self.code) is int and 0 <= self.code <= 255
        if coded != (self.kind == "exit") or (self.code is not None and not coded):
            raise FaultPlanError(f"{self.kind} with code={self.code!r}", "code=0 to 255, for exit only")

    @property
    def watched(self) -> int | None:
        """The rank that triggers the fault; `None` is any rank."""
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
        text = _LETTERS[self.kind] + ("" if self.rank is None else str(self.rank))
        if self.kind != "late_join":
            text += f"@{self.trigger}"
        if self.code is not None:
            text += f"={self.code}"
        if self.seconds is not None:
            micros = round(self.seconds * 1e6)
            unit = next(unit for unit, size in _UNITS.items() if micros % size == 0)
            text += f"={micros // _UNITS[unit]}{unit}"
        return text


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one run; `|` joins plans, and `str` is the text that `parse` reads.

    >>> plan = kill(rank=1, op=4) | delay(rank=0, by=0.2, key="a*")
    >>> plan
    kill(rank=1, op=4) | delay(rank=0, by=0.2, key='a*')
    >>> str(plan)
    'K1@4+D0@ka%2A=200ms'
    >>> len(plan), plan.ends
    (2, {1: -9})
    """

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
        """The exit codes of the ranks that it ends: rank -> code, negative for a signal."""
        return {fault.rank: fault.code or ENDS[fault.kind] for fault in self if fault.kind in ENDS}  # type: ignore[misc]

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
    """The trigger of a fault as keywords; see `kill`."""

    op: int | None
    key: str | None
    barrier: str | None
    collective: str | None
    line: str | None
    nth: int | None
    of: int | None


_Make = TypeVar("_Make", bound=Callable[..., FaultPlan])


def with_trigger(make: _Make) -> _Make:
    """Show the keywords of `At` in the signature of a function, for `help` and notebooks."""
    own = inspect.signature(make)
    kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    for name in At.__annotations__:
        kind = "str | None" if name in WHERES[1:] else "int | None"
        kept.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    make.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
    return make


@with_trigger
def kill(rank: int, **at: Unpack[At]) -> FaultPlan:
    """Plan a SIGKILL.

    Args:
        rank: the victim.
        op: number of the operation of the store, from 1, before which it happens.
        key: pattern of the key that an operation is about (`*`, `?`, `[...]`).
        barrier: name, prefix or pattern of the barrier at which it happens.
        collective: name or pattern of the call of a process group at which it happens: `"world#3"` is the
            fourth call of the world, `"world:0>1,0#*"` each message from 0 to 1 with the tag 0.
        line: part of a line of output.
        nth: which match of `key`, `barrier`, `collective` or `line`, from 1; 1 by default.
        of: the rank whose operation or line it is, where that is not the victim.

    Raises:
        FaultPlanError: an argument is not allowed, or not one of the triggers is given: `op`, `key`,
            `barrier`, `collective`, `line`.

    >>> print(kill(rank=1, op=4) | kill(rank=0, key="epoch*", nth=3))
    K1@4+K0@kepoch%2A,3
    """
    return plan_of("kill", rank, at)


@with_trigger
def exit(rank: int, code: int, **at: Unpack[At]) -> FaultPlan:
    """Plan that a rank's process ends at once with an exit code, 0 to 255.

    >>> print(exit(rank=3, code=7, op=5))
    X3@5=7
    """
    return plan_of("exit", rank, at, code=code)


@with_trigger
def stop(rank: int, seconds: float | None = None, **at: Unpack[At]) -> FaultPlan:
    """Plan a SIGSTOP, and a SIGCONT after `seconds`; where that is `None`, only a `resume` ends it.

    >>> print(stop(rank=2, barrier="epoch3", seconds=2))
    S2@bepoch3=2s
    """
    return plan_of("stop", rank, at, seconds)


@with_trigger
def resume(rank: int, **at: Unpack[At]) -> FaultPlan:
    """Plan a SIGCONT to a stopped rank, when the rank `of` does something meanwhile.

    >>> print(stop(rank=1, op=2) | resume(rank=1, of=0, key="go"))
    S1@2+R1@0:kgo
    """
    return plan_of("resume", rank, at)


@with_trigger
def delay(rank: int, by: float, **at: Unpack[At]) -> FaultPlan:
    """Plan that an operation takes effect and is answered `by` seconds later.

    >>> print(delay(rank=0, by=0.2, key="a*"))
    D0@ka%2A=200ms
    """
    return plan_of("delay", rank, at, by)


@with_trigger
def drop(rank: int, **at: Unpack[At]) -> FaultPlan:
    """Plan a lost write: it has no effect, and the rank gets the answer of one that had.

    >>> print(drop(rank=0, key="counter", nth=2))
    P0@kcounter,2
    """
    return plan_of("drop", rank, at)


def late_join(rank: int, by: float) -> FaultPlan:
    """Plan that a rank's first operation comes `by` seconds late.

    >>> print(late_join(rank=1, by=0.2))
    L1=200ms
    """
    return FaultPlan((Fault("late_join", rank, Trigger("op"), by),))


@with_trigger
def server_gone(**at: Unpack[At]) -> FaultPlan:
    """Plan that the store closes all connections; `op=n` counts all ranks' operations unless `of` names one.

    >>> print(server_gone(op=6))
    G@6
    """
    return plan_of("server_gone", None, at)


def kill_points(operations: Mapping[int, int]) -> list[FaultPlan]:
    """The plans of all single kills: one for each operation of each rank.

    Args:
        operations: rank -> number of its operations.

    >>> kill_points({0: 2, 1: 1})
    [kill(rank=0, op=1), kill(rank=0, op=2), kill(rank=1, op=1)]
    """
    return [kill(rank, op=op) for rank, count in operations.items() for op in range(1, count + 1)]


def parse(text: str) -> FaultPlan:
    """The plan of a text that `str` wrote; the empty text is the empty plan.

    Raises:
        FaultPlanError: it is none; with the fault, its place in the text and what is allowed.

    >>> parse("K1@4+D0@ka%2A=200ms")
    kill(rank=1, op=4) | delay(rank=0, by=0.2, key='a*')
    """
    faults, at = [], 0
    for part in text.split("+") if text else ():
        try:
            faults.append(parse_fault(part))
        except FaultPlanError as error:
            raise FaultPlanError(error.what, error.allowed, f"{part!r} at character {at + 1} of {text!r}")
        at += len(part) + 1
    return FaultPlan(tuple(faults))


def parse_fault(part: str) -> Fault:
    """One fault of a text."""
    match = _FAULT.fullmatch(part)
    if match is None:
        raise FaultPlanError("no fault", "such as K1@4, X3@5=7, S2@bepoch3=2s, D0@ka%2A=200ms, L1=200ms")
    if match["letter"] not in KINDS:
        letters = ", ".join(f"{letter} {kind}" for letter, kind in KINDS.items())
        raise FaultPlanError(f"the letter {match['letter']}", letters)
    kind = KINDS[match["letter"]]
    rank = None if match["rank"] is None else int(match["rank"])
    value, unit = match["value"], match["unit"]
    if value is not None and (unit is None) != (kind == "exit"):
        raise FaultPlanError(f"the value {value}{unit or ''}", "a number for X, with s, ms or us for S, D, L")
    seconds = None if unit is None else int(value) * _UNITS[unit] / 1e6
    code = int(value) if value is not None and unit is None else None
    return Fault(kind, rank, parse_trigger(kind, match), seconds, code)


def parse_trigger(kind: Kind, match: re.Match[str]) -> Trigger:
    """The trigger of a fault that `_FAULT` matched."""
    has = match["op"] is not None or match["where"] is not None
    if has == (kind == "late_join"):
        raise FaultPlanError("no trigger" if not has else "a trigger", "one after @, and none for L")
    if kind == "late_join":
        return Trigger("op")
    of = None if match["of"] is None else int(match["of"])
    if match["op"] is not None:
        return Trigger("op", "", int(match["op"]), of)
    try:
        text = unquote(match["text"], errors="strict")
    except UnicodeDecodeError as error:
        raise FaultPlanError(f"the text {match['text']!r} ({error.reason})", "UTF-8, percent-encoded")
    (where,) = (where for where in WHERES if where[0] == match["where"])
    return Trigger(where, text, int(match["nth"] or 1), of)


def plan_of(
    kind: Kind, rank: int | None, at: At, seconds: float | None = None, code: int | None = None
) -> FaultPlan:
    """The plan of one fault whose trigger is given by keywords; `None` is not given."""
    given = {name: value for name, value in at.items() if value is not None}
    unknown = [name for name in given if name not in At.__annotations__]
    where = [name for name in WHERES if name in given]
    if unknown or len(where) != 1 or (where == ["op"] and "nth" in given):
        what = f"{kind}({', '.join(f'{name}={value!r}' for name, value in given.items())})"
        raise FaultPlanError(what, f"exactly one of {', '.join(WHERES)}; then nth (not with op) and of")
    text, nth = ("", given["op"]) if where == ["op"] else (given[where[0]], given.get("nth", 1))
    trigger = Trigger(where[0], text, nth, given.get("of"))  # type: ignore[arg-type]  # It checks them.
    return FaultPlan((Fault(kind, rank, trigger, seconds, code),))


def check_rank(name: str, rank: object, optional: bool) -> None:
    """Raise unless it is a rank, or `None` where that may be."""
    if not ((rank is None and optional) or (type(rank) is int and rank >= 0)):
        raise FaultPlanError(f"{name}={rank!r}", "a rank from 0")


def whole_micros(kind: str, seconds: object) -> float:
    """Seconds of a fault, rounded to whole microseconds."""
    number = math.nan if isinstance(seconds, bool) or not isinstance(seconds, int | float) else float(seconds)
    if not _SMALLEST <= number <= _LONGEST:
        name = "seconds" if kind == "stop" else "by"
        raise FaultPlanError(f"{kind} with {name}={seconds!r}", f"{_SMALLEST:g} to {_LONGEST:g} seconds")
    return round(number * 1e6) / 1e6
