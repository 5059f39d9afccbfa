"""Which pending operation goes next: the seam between the simulated world and whoever searches in it.

*Rules.*  A rank runs alone until it comes to a scheduling point: an operation of the store, a sleep, a
`point`, the arming of a timer.  What it is about to do there is a `Step`, not yet done.  Every rank is at
such a point, blocked, asleep or ended when a decision is made, so that the enabled steps are exact: none of
them is a guess.  The world does the step that the scheduler chooses and lets those ranks run that have an
answer, up to their next points.

*Enabled steps* come in a fixed order: what ranks can do, by rank, each at most once; then what time can do
(`"expire"`), by rank.

*The default schedule* continues the rank that ran last, else the next one in the ring of those that can do
something; time comes last.  A schedule is a short list of *delays* from it: (gap, shift) is "`gap` decisions
by default, then the `shift`-th alternative to the default".  Only decisions that have an alternative count.
The fewer delays, the simpler the schedule (Emmi, Qadeer, Rakamaric: Delay-Bounded Scheduling, POPL 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pytest_elastic.store import OPERATIONS

Delays = tuple[tuple[int, int], ...]
Kind = Literal["call", "resume", "expire", "sleep", "timer", "point", "fault"]


class Step(NamedTuple):
    """One thing that can happen next.  A tuple, since one is made for every operation of every schedule.

    Attributes:
        rank: to whom it happens.
        kind: `"call"`, an operation is applied to the store (which may block the rank); `"resume"`, a
            blocked one is looked at again, under the store's `"level"` rule; `"expire"`, an alarm rings;
            `"sleep"`; `"timer"`, one is armed or taken away; `"point"`; `"fault"`, which is recorded where it
            happened but never offered.
        name: the operation; for `"resume"` and `"expire"` the one that is blocked, or the alarm's name.
        arguments: the operation's; several keys are a tuple.
    """

    rank: int
    kind: Kind
    name: str
    arguments: tuple[Any, ...] = ()

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keys of the store that it touches; `None` is all of them, `()` none."""
        return keys_of(self.name, self.arguments)

    def __str__(self) -> str:
        text = ", ".join(_shown(argument) for argument in self.arguments)
        kind = "" if self.kind in ("call", self.name) else f"{self.kind} of "
        return f"rank {self.rank}: {kind}{self.name}({text})"


class Decision(NamedTuple):
    """What a scheduler sees.

    Attributes:
        steps: the enabled ones, in the fixed order; never empty.
        last: the rank of the step that was done last; -1 at first.
        number: how many decisions with an alternative (two and more steps) were made before.
    """

    steps: Sequence[Step]
    last: int
    number: int


class Cut(Exception):
    """Raised by a scheduler that wants to see no more of this execution, which then has no verdict."""


class Scheduler(Protocol):
    """Makes the decisions of one execution; asked at every step, also where there is only one."""

    def choose(self, decision: Decision) -> int:
        """The index in `decision.steps` of the one to do.

        Raises:
            Cut: the rest of the execution is not wanted.
        """


class DefaultScheduler:
    """Continues the rank that ran last, else the next in the ring."""

    def choose(self, decision: Decision) -> int:
        return default_choice(decision.steps, decision.last)


class SparseScheduler:
    """The default, but for a few delays; good for one execution.

    A `shift` that is more than there are alternatives counts round and round through them, the default
    included, so that any list of delays is a schedule.

    Args:
        delays: (gap, shift) pairs, both 0 and more.
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
    """Takes the steps of a sequence of (rank, kind) pairs; the default when the sequence has ended.

    Raises:
        LookupError: (from `choose`) the next pair is not enabled.
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
    """The index of the default among enabled steps."""
    for index, step in enumerate(steps):
        if step.rank >= last:
            return index if step.kind != "expire" else 0  # Those come last: no rank from here on can run.
    return 0


def ring_order(steps: Sequence[Step], last: int) -> list[int]:
    """The indices of enabled steps: the default, then its alternatives, as delays count them."""
    first = default_choice(steps, last)
    able = sum(step.kind != "expire" for step in steps) or len(steps)
    return [*range(first, able), *range(first), *range(able, len(steps))]


def delays_of(decisions: Sequence[tuple[Sequence[Step], int]]) -> Delays:
    """The sparse schedule that makes these choices.

    Args:
        decisions: in order, the enabled steps and the index of the one that was done.
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


_NONE = frozenset({"sleep", "point", "timer", "acquire", "release"})
_SHOWN = 40


def keys_of(name: str, arguments: tuple[Any, ...]) -> tuple[str, ...] | None:
    """The keys that an operation touches; `None` is all of them."""
    operation = OPERATIONS.get(name)
    if operation is not None:
        return operation.touched(arguments) if arguments or operation.keyless else ()
    return () if name in _NONE or not arguments else (arguments[0],)


def _shown(argument: Any) -> str:
    text = repr(list(argument) if isinstance(argument, tuple) else argument)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
