"""Schedulers choose the next step of ranks: of simulated ones, and of real ones whose order is forced.

*Rules.*  A rank runs alone until it reaches a scheduling point: a store operation, a sleep, a `point`, the
arming of a timer.  The operation that it is about to do there is its `Step`.  When a decision is made every
rank is at such a point, blocked, asleep or ended, so the enabled steps are exact.  The simulator does the
step that the scheduler chooses and lets the ranks run that have an answer, up to their next scheduling
points.

*Enabled steps* have a fixed order: steps of ranks, by rank, at most one each; then expiries of alarms
(`"expire"`), by rank.

*The default schedule* continues the rank that ran last, else the next one in the ring of the ranks that have
a step; expiries come last.  A schedule is a short list of *delays* from it: (gap, shift) means "`gap` default
decisions, then the `shift`-th alternative to the default".  Only decisions with an alternative count.
The fewer delays, the simpler the schedule (Emmi, Qadeer, Rakamaric: Delay-Bounded Scheduling, POPL 2011).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pytest_elastic.store import OPERATIONS, Effect, detail_of, with_effect

Delays = tuple[tuple[int, int], ...]
Kind = Literal["call", "resume", "expire", "sleep", "timer", "point", "fault"]


class Step(NamedTuple):
    """One step of a rank.  A tuple, since one is made for every operation of every schedule.

    Attributes:
        rank: the rank.
        kind: `"call"`, an operation is applied to the store (which may block the rank); `"resume"`, a
            blocked operation is checked again, under the store's `"level"` rule; `"expire"`, an alarm rings;
            `"sleep"`; `"timer"`, a timer is armed or released; `"point"`; `"fault"`, which is recorded where
            it happened but is never enabled.
        name: the operation; for `"resume"` and `"expire"` the blocked operation, or the alarm's name.
        arguments: the operation's arguments; several keys are a tuple.

    >>> print(Step(1, "call", "add", ("count", 1)))
    rank 1: add('count', 1)
    """

    rank: int
    kind: Kind
    name: str
    arguments: tuple[Any, ...] = ()

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The store keys that the step touches; `None` is all of them, `()` none."""
        return keys_of(self.name, self.arguments)

    def __str__(self) -> str:
        if self.name in _MEETINGS:
            return f"rank {self.rank}: {_collective(self.arguments)}"
        text = ", ".join(_shown(argument) for argument in self.arguments)
        kind = "" if self.kind in ("call", self.name) else f"{self.kind} of "
        return f"rank {self.rank}: {kind}{self.name}({text})"


class Decision(NamedTuple):
    """A decision that a scheduler has to make.

    Attributes:
        steps: the enabled steps, in the fixed order; never empty.
        last: the rank of the previous step; -1 at first.
        number: number of earlier decisions with an alternative, that is, with two or more steps.
    """

    steps: Sequence[Step]
    last: int
    number: int


class Cut(Exception):
    """Raised by a scheduler to end an execution early, without a verdict."""


class Scheduler(Protocol):
    """Makes the decisions of one execution; called for every step, even if only one is enabled.

    class LastRankFirst:
        def choose(self, decision: Decision) -> int:
            return len(decision.steps) - 1
    """

    def choose(self, decision: Decision) -> int:
        """The index in `decision.steps` of the step to do.

        Raises:
            Cut: the execution is to end here.
        """


class DefaultScheduler:
    """The default schedule: continues the rank that ran last, else the next in the ring."""

    def choose(self, decision: Decision) -> int:
        return default_choice(decision.steps, decision.last)


class SparseScheduler:
    """The default schedule with a few delays; serves one execution.

    A `shift` beyond the last alternative wraps around, the default included, so that any list of delays is a
    schedule.

    Args:
        delays: (gap, shift) pairs of integers that are 0 or more.

    >>> SparseScheduler([(0, 1)]).choose(Decision([Step(0, "point", "a"), Step(1, "point", "b")], -1, 0))
    1
    """

    def __init__(self, delays: Sequence[tuple[int, int]]) -> None:
        self._delays = iter(delays)
        self._next()

    def _next(self) -> None:
        self._gap, self._shift = next(self._delays, (-1, 0))

    def choose(self, decision: Decision) -> int:
        steps = decision.steps
        if len(steps) == 1:
            return 0
        if self._gap:  # Negative when no delay is left.
            self._gap -= 1
            return default_choice(steps, decision.last)
        order = ring_order(steps, decision.last)
        choice = order[self._shift % len(order)]
        self._next()
        return choice


class FollowingScheduler:
    """Follows a sequence of (rank, kind) pairs, then the default schedule.

    `choose` raises `LookupError` if no step of the next pair is enabled.
    """

    def __init__(self, order: Sequence[tuple[int, Kind]]) -> None:
        self._order = iter(order)

    def choose(self, decision: Decision) -> int:
        wanted = next(self._order, None)
        if wanted is None:
            return default_choice(decision.steps, decision.last)
        for index, step in enumerate(decision.steps):
            if (step.rank, step.kind) == wanted:
                return index
        raise LookupError(f"{wanted} is not enabled among {list(map(str, decision.steps))}")


def default_choice(steps: Sequence[Step], last: int) -> int:
    """The index of the default step among the enabled ones."""
    for index, step in enumerate(steps):
        if step.rank >= last:
            return index if step.kind != "expire" else 0  # Expiries come last: no rank from here on can run.
    return 0


def ring_order(steps: Sequence[Step], last: int) -> list[int]:
    """The indices of the enabled steps in the order in which delays count them: the default comes first."""
    first = default_choice(steps, last)
    able = sum(step.kind != "expire" for step in steps) or len(steps)
    return [*range(first, able), *range(first), *range(able, len(steps))]


def delays_of(decisions: Sequence[tuple[Sequence[Step], int]]) -> Delays:
    """The sparse schedule that makes these choices.

    Args:
        decisions: in order, the enabled steps and the index of the chosen one.
    """
    delays: list[tuple[int, int]] = []
    gap, last = 0, -1
    for steps, choice in decisions:
        if len(steps) > 1:
            shift = ring_order(steps, last).index(choice)
            if shift:
                delays.append((gap, shift))
                gap = 0
            else:
                gap += 1
        last = steps[choice].rank
    return tuple(delays)


def checksum(token: str) -> int:
    """The checksum of a token's text, 16 bits."""
    return zlib.crc32(token.encode("utf-8", "replace")) >> 16


_NONE = frozenset({"sleep", "point", "timer", "acquire", "release"})
_SHOWN = 40
_MEETINGS = with_effect(Effect.ANNOUNCE, Effect.EXCHANGE)


def keys_of(name: str, arguments: tuple[Any, ...]) -> tuple[str, ...] | None:
    """The keys that an operation touches; `None` is all of them."""
    operation = OPERATIONS.get(name)
    if operation is not None:
        return operation.touched(arguments) if arguments or operation.keyless else ()
    return () if name in _NONE or not arguments else (arguments[0],)


def _collective(arguments: tuple[Any, ...]) -> str:
    """A rank's part in a meeting: the call that it comes with, else that it waits there."""
    meeting, _, place, *_, call, _ = arguments
    text = detail_of(call).get("text") if place >= 0 else None
    return f"{text} as {meeting}" if text else f"waits in {meeting}"


def _shown(argument: Any) -> str:
    text = repr(list(argument) if isinstance(argument, tuple) else argument)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
