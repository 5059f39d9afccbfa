"""The record of a simulated execution: its setting, each step with its alternatives, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.faults import Fault, FaultPlan
from pytest_elastic.scheduling import Delays, Step, delays_of
from pytest_elastic.wording import name_ranks

if TYPE_CHECKING:
    from pytest_elastic.simulator._failures import Verdict

Wake = Literal["latched", "level"]


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings that all executions of a search share.

    Attributes:
        ranks: number of ranks.
        wake: the store's rule for waking waiters, `"latched"` or `"level"`; see `StoreState`.
        faults: the faults to inject.
        expiries: number of alarms (timeouts, sleeps, timers) that may ring early, at any point; with 0
            (virtual time) the clock moves only when no rank can run.
        skew: by rank, the relative error of its clock: 0.1 is 10 % fast; 0 where none is given.
        may_timeout: whether timeouts are expected, so that a wait which only its timeout can end is no hang.
        rounds: number of times that each rank calls the function over one store, as a training loop does.

    Raises:
        ValueError: `ranks` or `rounds` is less than 1, or a clock would stand still or run backwards.
        FaultPlanError: a fault names a rank that does not exist.

    >>> Setting(3, wake="level").ranks
    3
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
    """A rank that waits for the store.

    Attributes:
        step: its pending operation, as a `"call"`.
        missing: the keys that do not exist yet.
        deadline: virtual seconds, `math.inf` if there is none.
        place: `file:line` in the rank's code or in the code that it calls.
        absent: the ranks that have not come, if it waits in a collective.
    """

    step: Step
    missing: tuple[str, ...]
    deadline: float
    place: str = ""
    absent: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        return self.step.rank

    def __str__(self) -> str:
        place = f"\n    at {self.place}" if self.place else ""
        lacks = f"absent: {name_ranks(self.absent)}" if self.absent else ""
        missing = f"missing: {', '.join(map(repr, self.missing))}"
        return f"{self.step}; {lacks or missing}{place}"


@dataclass(slots=True)
class Execution:
    """The record of one execution.

    Attributes:
        setting: the settings that it ran under.
        steps: the steps in order, faults included.
        enabled: for each step, the steps that were possible there; `()` for a fault.
        results: by rank, the return value of its function, `None` for a rank that did not return.
        errors: by rank, the exception that ended it; in the order in which the ranks ended.
        killed: by rank, the fault that ended it.
        expired: by rank, the scope of the timer that ended it.
        stopped: the ranks that a fault stopped and that nothing resumed.
        blocked: the ranks that waited at the end, in order; their pending operations have not happened.
        unfired: the faults that did not happen, `None` if all did.
        turns: number of steps before the ranks began to take turns, see `_fairness`; `None` if they did not.
        livelocked: the latest steps of a livelock.
        now: virtual seconds at the end.
        cut: whether the scheduler cut the execution short.
        verdict: the failure, `None` for none.

    >>> from pytest_elastic.simulator import simulate
    >>> execution = simulate(lambda rank, world_size, store: rank, ranks=2)
    >>> execution.results, execution.verdict
    ([0, 1], None)
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
        """Sparse schedule of this execution, see `SparseScheduler`."""
        pairs = zip(self.enabled[: self.turns], self.steps[: self.turns], strict=True)
        return delays_of([(steps, steps.index(done)) for steps, done in pairs if steps])

    @property
    def fates(self) -> tuple[str, ...]:
        """How each rank that does not wait ended, in words."""
        told = {rank: f"was ended by {fault!r}" for rank, fault in self.killed.items()}
        told |= {rank: f"was ended by its timer {scope!r}" for rank, scope in self.expired.items()}
        told |= {rank: f"failed with {type(error).__name__}" for rank, error in self.errors.items()}
        told |= dict.fromkeys(self.stopped, "is stopped by a fault")
        waiting = {each.rank for each in self.blocked}
        rest = (rank for rank in range(self.setting.ranks) if rank not in waiting)
        return tuple(f"rank {rank} {told.get(rank, 'has returned')}" for rank in rest)

    def check(self) -> Execution:
        """Raise the failure of this execution, if it has one; return the execution otherwise.

        Raises:
            Verdict: the execution failed; the table in `_failures` lists the types.
            UnfiredFaultError: a fault did not happen.
        """
        __tracebackhide__ = True
        if self.verdict is not None:
            self.verdict.throw()
        if self.unfired is not None:
            raise self.unfired
        return self
