"""Search for a failing schedule (`explore`, `prove`), and single executions (`simulate`, `replay`).

A rank function is called as `function(rank, world_size, store)`, once on each rank of each execution, or
`rounds` times over one store.  It must be deterministic except for the store: anything else that ranks share
is not part of the search.  Log messages of ranks are not shown during a search.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn, TypedDict, Unpack

from pytest_elastic.errors import ElasticError, UnfiredFaultError
from pytest_elastic.faults import FaultPlan, kill_points, parse
from pytest_elastic.progress import Progress
from pytest_elastic.scheduling import SparseScheduler
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution, Setting, Wake
from pytest_elastic.simulator._interleaving import interleaving
from pytest_elastic.simulator._schedule import Schedule, TokenError, fingerprint, parse_token, recipe
from pytest_elastic.simulator._search import Search, cost, every_trace, search_of
from pytest_elastic.simulator._shrink import COME_ONCE, TIMES, confirm, shrink
from pytest_elastic.simulator._simulation import RankFunction, Simulation


class Rules(TypedDict, total=False):
    """Settings of a search; see `Setting`."""

    wake: Wake
    faults: FaultPlan
    expiries: int
    skew: tuple[float, ...]
    may_timeout: bool
    rounds: int


@dataclass(frozen=True, slots=True)
class Exploration:
    """Result of a search that found no failure.

    Attributes:
        schedules: number of executions.
        tries: number of executions by strategy.
        exhausted: whether every trace was seen, so that this is a proof.

    >>> explore(lambda rank, world_size, store: store.add("count", 1), ranks=2, strategy="dpor").tries
    {'dpor': 2}
    """

    schedules: int
    tries: Mapping[str, int]
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """Result of a proof: no schedule of the program fails under this setting.

    Attributes:
        setting: the ranks and the settings.
        exhausted: whether every trace was seen.
        traces: number of traces; schedules of one trace differ only in the order of independent steps.
        executions: number of executions.
        operations: by rank, the largest number of store operations that it did in one execution.
    """

    setting: Setting
    exhausted: bool
    traces: int
    executions: int
    operations: tuple[int, ...]

    def __str__(self) -> str:
        setting = self.setting
        clock = f"{setting.expiries} early expiries" if setting.expiries else "virtual clock"
        faults = f"faults {setting.faults}" if setting.faults else "no faults"
        rounds = f", {setting.rounds} rounds," if setting.rounds > 1 else ""
        proved = "all" if self.exhausted else "not all"
        return (
            f"{proved} {self.traces} traces of {setting.ranks} ranks{rounds} in {self.executions} executions"
            f" ({setting.wake} store, {clock}, {faults})"
        )


class NotExhaustedError(ElasticError):
    """A proof was given up because it needs more executions than allowed.

    Attributes:
        certificate: the traces seen until then.
        share: the estimated part of the space that they are, 0 to 1.
    """

    def __init__(self, certificate: Certificate, share: float) -> None:
        self.certificate, self.share = certificate, share
        super().__init__(
            f"nothing is proved: {certificate}, about {share:.1%} of the space, without a failure"
        )


def explore(
    function: RankFunction,
    ranks: int = 3,
    strategy: str = "auto",
    max_schedules: int = 2000,
    seed: int = 0,
    **rules: Unpack[Rules],
) -> Exploration:
    """Search for a schedule that fails; the same arguments try the same schedules.

    Blocks until a failure is found, every trace was seen, or the budget is spent.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        ranks: number of ranks.
        strategy: `"auto"`, which combines the others, or one of `"dpor"`, `"delays"`, `"random"`, `"pos"`,
            `"pct2"`, `"pct3"`, `"starvation"`.
        max_schedules: number of executions; one of more than 500 steps, as of a rank that polls, counts as
            several.
        seed: seed of the randomised strategies.
        **rules: see `Setting`.

    Raises:
        Verdict: the first failure, shrunk; its notes have the token and the call that replays it.
        UnfiredFaultError: a planned fault never happened.
        ValueError: an argument is out of range.

    >>> def hand_over(rank, world_size, store):
    ...     store.set("box", "1") if rank == 0 else store.get("box")
    >>> explore(hand_over, ranks=2).exhausted
    True
    """
    __tracebackhide__ = True
    setting = Setting(ranks, **rules)
    with _quiet(), Simulation(function, setting) as simulation:
        found = _run(simulation, search_of(strategy, simulation, max_schedules, seed), max_schedules)
    found.check(function)
    return Exploration(found.schedules, dict(found.tries), found.exhausted)


def prove(
    function: RankFunction, ranks: int = 3, max_executions: int = 100_000, **rules: Unpack[Rules]
) -> Certificate:
    """Prove that no schedule fails: run one schedule of each trace.

    Blocks until a failure is found, every trace was seen, or the budget is spent.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        ranks: number of ranks.
        max_executions: number of executions to allow.
        **rules: see `Setting`.

    Raises:
        Verdict: the first failure, shrunk; its notes have the token and the call that replays it.
        NotExhaustedError: the proof needs more executions.
        UnfiredFaultError: a planned fault happened in no schedule.
        ValueError: an argument is out of range.

    >>> def meet(rank, world_size, store):
    ...     store.barrier("start", world_size)
    >>> print(prove(meet, ranks=3))
    all 1 traces of 3 ranks in 1 executions (latched store, virtual clock, no faults)
    """
    __tracebackhide__ = True
    setting = Setting(ranks, **rules)
    with _quiet(), Simulation(function, setting) as simulation:
        scheduler = Dpor(simulation)
        found = _run(simulation, every_trace(scheduler), max_executions)
        share = scheduler.share
    found.check(function)
    certificate = Certificate(setting, found.exhausted, found.whole, found.schedules, tuple(found.operations))
    if not found.exhausted:
        raise NotExhaustedError(certificate, share)
    return certificate


def prove_kills(
    function: RankFunction, ranks: int = 3, max_executions: int = 100_000, **rules: Unpack[Rules]
) -> dict[FaultPlan, Certificate]:
    """Prove the function with each single kill: every rank, before each of its operations, in every schedule.

    A killed rank leaves others waiting, so timeouts are expected here unless `may_timeout=False` is given.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        ranks: number of ranks.
        max_executions: number of executions to allow for each kill.
        **rules: see `Setting`; `faults` happen besides the kill.

    Returns:
        A certificate for each kill.

    Raises:
        Verdict: as `prove` does; the token in its note contains the kill.
        NotExhaustedError: the proof for one of the kills needs more executions.

    >>> def count(rank, world_size, store):
    ...     store.add("count", 1)
    >>> [str(plan) for plan in prove_kills(count, ranks=2)]
    ['K0@1', 'K1@1']
    """
    __tracebackhide__ = True
    rules.setdefault("may_timeout", True)
    whole = prove(function, ranks, max_executions, **rules)
    besides = rules.get("faults", FaultPlan())
    certificates = {}
    for plan in kill_points(dict(enumerate(whole.operations))):
        rules["faults"] = besides | plan
        certificates[plan] = prove(function, ranks, max_executions, **rules)
    return certificates


def simulate(
    function: RankFunction,
    schedule: Schedule | str | Sequence[tuple[int, int]] = (),
    faults: FaultPlan | str | None = None,
    *,
    ranks: int | None = None,
    wake: Wake | None = None,
    may_timeout: bool = False,
) -> Execution:
    """Run one execution of a rank function under a given schedule.  Blocks until it has ended.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        schedule: a token, a `Schedule`, or only delays from the default schedule.
        faults: faults to inject besides those of the schedule.
        ranks: number of ranks; required if the schedule does not have it, which it overrides.
        wake: the store's rule for waking waiters; by default the schedule's, or `"latched"`.
        may_timeout: whether timeouts are expected, so that a wait which only its timeout can end is no hang.

    Returns:
        The record; its `check()` raises the failure, with a note of the token.

    Raises:
        TokenError: the token cannot be read.
        ValueError: the number of ranks is not given, or the setting is impossible.

    >>> def count(rank, world_size, store):
    ...     return store.add("count", 1)
    >>> simulate(count, ranks=3).check().results
    [1, 2, 3]
    """
    whole = _whole(schedule, ranks)
    plan = parse(faults) if isinstance(faults, str) else faults or FaultPlan()
    setting = replace(
        whole.setting,
        ranks=ranks or whole.setting.ranks,
        wake=wake or whole.setting.wake,
        faults=whole.setting.faults | plan,
        may_timeout=may_timeout,
    )
    with Simulation(function, setting) as simulation:
        execution = simulation.run(SparseScheduler(whole.delays))
    if execution.verdict is not None:
        name = getattr(function, "__name__", "function")
        execution.verdict.add_note(f"to run it again: {recipe(name, execution)}")
    return execution


def replay(function: RankFunction, token: Schedule | str, *, may_timeout: bool = False) -> Execution:
    """Replay the execution of a token and raise its failure, if it has one.  Blocks until it has ended.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        token: a token, as in the note of a failure, or a `Schedule`.
        may_timeout: see `simulate`.

    Raises:
        TokenError: the token cannot be read, or was made for a program that did other operations.
        Verdict: see `Execution.check`.
        UnfiredFaultError: a fault did not happen.

    >>> def count(rank, world_size, store):
    ...     return store.add("count", 1)
    >>> replay(count, "E1.3.l.0-2").results
    [2, 3, 1]
    """
    __tracebackhide__ = True
    schedule = _whole(token, None)
    execution = simulate(function, schedule, may_timeout=may_timeout)
    if schedule.program not in (None, fingerprint(execution.steps)):
        raise TokenError(
            str(schedule),
            "was made for another program: this one did other operations; without its seal it runs",
        )
    return execution.check()


def _whole(schedule: Schedule | str | Sequence[tuple[int, int]], ranks: int | None) -> Schedule:
    if isinstance(schedule, str):
        return parse_token(schedule)
    if isinstance(schedule, Schedule):
        return schedule
    if ranks is None:
        raise ValueError("ranks=: how many there are is neither in the schedule nor given")
    return Schedule(Setting(ranks), tuple(schedule))


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable logging: the logs of thousands of executions are of no use, and `replay` shows them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Found:
    """Progress of a search: counts, and the first failure."""

    def __init__(self, ranks: int) -> None:
        self.schedules = self.whole = self.spent = 0
        self.tries: Counter[str] = Counter()
        self.operations = [0] * ranks
        self.exhausted = False
        self.failure: Execution | None = None
        self.last = ""
        self._unfired: UnfiredFaultError | None = None
        self._fired = False

    def take(self, name: str, execution: Execution) -> None:
        self.schedules += 1
        self.spent += cost(execution)
        self.tries[name] += 1
        self.last = name
        if execution.cut:
            return
        self.whole += 1
        calls = Counter(step.rank for step in execution.steps if step.kind == "call")
        self.operations = [max(most, calls[rank]) for rank, most in enumerate(self.operations)]
        if execution.verdict is not None:
            self.failure = execution
        self._unfired = execution.unfired
        self._fired |= execution.unfired is None

    def check(self, function: RankFunction) -> None:
        """Raise the failure, shrunk, or the error that a fault happened in no schedule."""
        __tracebackhide__ = True
        if self.failure is not None:
            _raise(function, self.failure, f"found by {self.last!r} in schedule {self.schedules}")
        if self._unfired is not None and not self._fired:
            raise self._unfired


def _run(simulation: Simulation, search: Search, budget: int) -> _Found:
    """Run a search to its end, the end of the budget, or the first failure."""
    found = _Found(simulation.setting.ranks)
    name, plan = getattr(simulation.function, "__name__", "search"), simulation.setting.faults
    progress = Progress(f"{name} with {plan}" if plan else name, "schedules", budget)
    try:
        name, scheduler = next(search)
        while True:
            execution = simulation.run(scheduler)
            found.take(name, execution)
            progress.count(scheduler.share if isinstance(scheduler, Dpor) else None)
            if found.failure is not None:
                return found
            if found.spent >= budget:
                # This may have been the last trace.
                found.exhausted = isinstance(scheduler, Dpor) and not scheduler.advance()
                return found
            name, scheduler = search.send(execution)
    except StopIteration as end:
        found.exhausted = end.value
        return found
    finally:
        progress.close("no failure" if found.failure is None else "stopped by a failure")


def _raise(function: RankFunction, failure: Execution, how: str) -> NoReturn:
    __tracebackhide__ = True
    with _quiet():
        best = confirm(function, shrink(function, failure))
    assert best.verdict is not None
    if table := interleaving(best):
        best.verdict.add_note(table)
    if isinstance(best.verdict, COME_ONCE):
        best.verdict.add_note(how)
        best.verdict.throw()
    name = getattr(function, "__name__", "function")
    best.verdict.add_note(f"{how}, shrunk, and reproduced {TIMES}/{TIMES}; to run it again:")
    best.verdict.add_note(f"    {recipe(name, best)}")
    best.verdict.throw()
