"""What one simulated run was: the setting, each step with its alternatives, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_elastic.simulator._scheduler import Step, delays_of

Wake = Literal["latched", "level"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a search keeps fixed.

    Attributes:
        ranks: how many.
        wake: the store's rule for who is woken, see `store._state`.
        expiries: how many deadlines may fire early, at any point; with 0 (virtual time) the clock moves only
            when nobody can run.
        skew: by rank, by which part its clock goes faster than the others': 0.1 is 10 % fast.
        may_timeout: whether a wait that only its timeout can end is no hang.
    """

    ranks: int
    wake: Wake = "latched"
    expiries: int = 0
    skew: tuple[float, ...] = ()
    may_timeout: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """A rank that waits.

    Attributes:
        step: its pending operation, as a `"call"`.
        missing: the keys that are not there.
        deadline: virtual seconds, `math.inf` if there is none.
    """

    step: Step
    missing: tuple[str, ...]
    deadline: float

    @property
    def rank(self) -> int:
        return self.step.rank


@dataclass(slots=True)
class Execution:
    """The record of one run.

    Attributes:
        steps: what happened, in order; faults included.
        enabled: for each step what could have been done there, `()` for a fault.
        results: what the ranks returned, `None` for those that did not.
        errors: by rank, in the order in which they ended: the exceptions that ranks ended with.
        blocked: who waited for what at the end, by rank; their pending operations have not happened.
        now: virtual seconds at the end.
        verdict: what is wrong with it, `None` for nothing.
        cut: whether the scheduler cut it short.
    """

    setting: Setting
    steps: list[Step] = field(default_factory=list)
    enabled: list[Sequence[Step]] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    errors: dict[int, BaseException] = field(default_factory=dict)
    blocked: tuple[Blocked, ...] = ()
    now: float = 0.0
    verdict: Exception | None = None
    cut: bool = False

    @property
    def delays(self) -> tuple[tuple[int, int], ...]:
        """The sparse schedule of this run, see `SparseScheduler`."""
        pairs = zip(self.enabled, self.steps, strict=True)
        return delays_of([(steps, steps.index(done)) for steps, done in pairs if steps])

    def check(self) -> Execution:
        """Raise the verdict, if there is one."""
        if self.verdict is not None:
            raise self.verdict
        return self
