"""What one simulated run was: the setting, each step with its alternatives, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.faults import Fault, FaultPlan
from pytest_elastic.simulator._scheduler import Delays, Step, delays_of

if TYPE_CHECKING:
    from pytest_elastic.simulator._failures import Verdict

Wake = Literal["latched", "level"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the schedules of one search have in common.

    Attributes:
        ranks: how many.
        wake: the store's rule for who is woken, see `StoreState`.
        faults: what goes wrong on purpose.
        expiries: how many alarms (timeouts, sleeps, timers) may ring early, at any point; with 0 (virtual
            time) the clock moves only when nobody can run.
        skew: by rank, by which part its clock goes faster than true: 0.1 is 10 % fast; 0 where none is given.
        may_timeout: whether a wait that only its timeout can end is no hang.
        rounds: how often each rank calls the function, as a training loop does; the store stays.

    Raises:
        ValueError: there is no rank, no round, or a clock that stands still or goes back.
    """

    ranks: int
    wake: Wake = "latched"
    faults: FaultPlan = field(default_factory=FaultPlan)
    expiries: int = 0
    skew: tuple[float, ...] = ()
    may_timeout: bool = False
    rounds: int = 1

    def __post_init__(self) -> None:
        for name in ("ranks", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.wake not in ("latched", "level"):
            raise ValueError(f"wake must be 'latched' or 'level', not {self.wake!r}")
        if self.expiries < 0 or len(self.skew) > self.ranks or any(skew <= -1 for skew in self.skew):
            raise ValueError(f"no clock for {self.ranks} ranks: expiries={self.expiries}, skew={self.skew}")
        self.faults.check(self.ranks)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A rank that waits.

    Attributes:
        step: its pending operation, as a `"call"`.
        missing: the keys that are not there.
        deadline: virtual seconds, `math.inf` if there is none.
        place: `file:line` in the rank's code, or the code that it calls.
    """

    step: Step
    missing: tuple[str, ...]
    deadline: float
    place: str = ""

    @property
    def rank(self) -> int:
        return self.step.rank

    def __str__(self) -> str:
        place = f"\n    at {self.place}" if self.place else ""
        return f"{self.step}; missing: {', '.join(map(repr, self.missing))}{place}"


@dataclass(slots=True)
class Execution:
    """The record of one run.

    Attributes:
        steps: what happened, in order; faults included.
        enabled: for each step what could have been done there; `()` for a fault.
        results: by rank, what its function returned, `None` for those that did not.
        errors: the exceptions that ranks ended with, by rank, in the order in which they ended.
        killed: the ranks that a fault ended.
        expired: the ranks that a timer ended, with the timer's scope.
        stopped: the ranks that a fault had stopped and nothing resumed.
        blocked: who waited for what at the end, by rank; their pending operations have not happened.
        unfired: the faults that did not happen, `None` if all did.
        turns: how many steps the scheduler was asked for before ranks took turns, `None` for all.
        livelocked: the steps that led nowhere, at the end of a livelock.
        now: virtual seconds at the end.
        cut: whether the scheduler cut it short.
        verdict: what is wrong with it, `None` for nothing.
    """

    setting: Setting
    steps: list[Step] = field(default_factory=list)
    enabled: list[Sequence[Step]] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    errors: dict[int, BaseException] = field(default_factory=dict)
    killed: dict[int, Fault] = field(default_factory=dict)
    expired: dict[int, str] = field(default_factory=dict)
    stopped: tuple[int, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    unfired: UnfiredFaultError | None = None
    turns: int | None = None
    livelocked: tuple[Step, ...] = ()
    now: float = 0.0
    cut: bool = False
    verdict: Verdict | None = None

    @property
    def delays(self) -> Delays:
        """The sparse schedule of this run, see `SparseScheduler`."""
        pairs = zip(self.enabled[: self.turns], self.steps[: self.turns], strict=True)
        return delays_of([(steps, steps.index(done)) for steps, done in pairs if steps])

    @property
    def fates(self) -> tuple[str, ...]:
        """What became of the ranks that do not wait, in words, by rank."""
        told = {rank: f"was ended by {fault!r}" for rank, fault in self.killed.items()}
        told |= {rank: f"was ended by its timer {scope!r}" for rank, scope in self.expired.items()}
        told |= {rank: f"failed with {type(error).__name__}" for rank, error in self.errors.items()}
        told |= dict.fromkeys(self.stopped, "is stopped by a fault")
        waiting = {each.rank for each in self.blocked}
        rest = (rank for rank in range(self.setting.ranks) if rank not in waiting)
        return tuple(f"rank {rank} {told.get(rank, 'has returned')}" for rank in rest)

    def check(self) -> Execution:
        """Raise what is wrong with it, if anything is.

        Raises:
            Verdict: of the type that the table in `_failures` says.
            UnfiredFaultError: a fault did not happen.
        """
        __tracebackhide__ = True
        if self.verdict is not None:
            self.verdict.throw()
        if self.unfired is not None:
            raise self.unfired
        return self
