"""Search for a schedule that fails: `explore` it, or `prove` that there is none.

A rank function is called as `function(rank, world_size, store)`, once on each rank of each execution, or as
often as the setting's `rounds` say, over one store.  It must be deterministic but for the store: what else
ranks share is not part of the search.  What they log is not shown.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypedDict, Unpack

from pytest_elastic.errors import ElasticError, UnfiredFaultError
from pytest_elastic.faults import FaultPlan, kill_points
from pytest_elastic.simulator._dpor import Dpor
from pytest_elastic.simulator._execution import Execution, Setting, Wake
from pytest_elastic.simulator._progress import Progress
from pytest_elastic.simulator._schedule import recipe
from pytest_elastic.simulator._search import Plan, cost, every_trace, plan_of
from pytest_elastic.simulator._shrink import COME_ONCE, TIMES, confirm, shrink
from pytest_elastic.simulator._simulation import RankFunction, Simulation


class Rules(TypedDict, total=False):
    """What the executions of a search have in common; see `Setting`."""

    wake: Wake
    faults: FaultPlan
    expiries: int
    skew: tuple[float, ...]
    may_timeout: bool
    rounds: int


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a search that found nothing has seen.

    Attributes:
        schedules: how many executions there were.
        tries: how many of them each strategy had.
        exhausted: whether there is no other trace: then it is a proof.
    """

    schedules: int
    tries: Mapping[str, int]
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was proved: no schedule of the program fails, under these rules.

    Attributes:
        setting: the ranks and the rules.
        exhausted: whether every trace was seen.
        traces: how many there are; schedules of one trace differ only in the order of independent steps.
        executions: how many were run for that.
        operations: by rank, the most operations of the store that it came to in one execution.
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
    """A proof was given up: the program has more traces than were allowed.

    Attributes:
        certificate: what was seen until then.
        share: about which part of the space that is, 0 to 1.
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
    """Run the function under many schedules; the same ones for the same arguments.

    Args:
        strategy: `"auto"`, see `_search`; or one part of it: `"dpor"`, `"delays"`, `"random"`, `"pos"`,
            `"pct2"`, `"pct3"`, `"starvation"`.
        max_schedules: how many; one of more than 500 steps, as of a rank that polls, counts for more.
        seed: of the randomised ones.

    Raises:
        Verdict: of the first failure, shrunk; its notes have the token and how to replay it.
        UnfiredFaultError: a planned fault never happened.
        ValueError: an argument is impossible.
    """
    __tracebackhide__ = True
    setting = Setting(ranks, **rules)
    with _quiet(), Simulation(function, setting) as simulation:
        plan = plan_of(strategy, simulation, max_schedules, seed)
        found = _run(simulation, plan, max_schedules)
    if found.failure is not None:
        _raise(function, found.failure, found)
    found.check_faults()
    return Exploration(found.schedules, dict(found.tries), found.exhausted)


def prove(
    function: RankFunction, ranks: int = 3, max_executions: int = 100_000, **rules: Unpack[Rules]
) -> Certificate:
    """Run the function under every schedule, one of each trace.

    Raises:
        Verdict: of the first failure, shrunk; its notes have the token and how to replay it.
        NotExhaustedError: there are more.
        UnfiredFaultError: a planned fault never happened, in no schedule.
        ValueError: an argument is impossible.
    """
    __tracebackhide__ = True
    setting = Setting(ranks, **rules)
    with _quiet(), Simulation(function, setting) as simulation:
        search = Dpor(simulation)
        found = _run(simulation, every_trace(search), max_executions)
        share = search.share
    if found.failure is not None:
        _raise(function, found.failure, found)
    found.check_faults()
    certificate = Certificate(setting, found.exhausted, found.whole, found.schedules, tuple(found.operations))
    if not found.exhausted:
        raise NotExhaustedError(certificate, share)
    return certificate


def prove_kills(
    function: RankFunction, ranks: int = 3, max_executions: int = 100_000, **rules: Unpack[Rules]
) -> dict[FaultPlan, Certificate]:
    """Prove the function with each single kill: every rank, before each of its operations, in every schedule.

    Killed ranks leave others waiting, so that timeouts are no hangs here unless `may_timeout=False` is given.

    Raises:
        Verdict: as `prove` does; the note says which kill.
        NotExhaustedError: there are more executions than so many, for one of the kills.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Ranks log nothing meanwhile: nobody reads the logs of thousands of executions.  `replay` shows them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Found:
    """What a search has seen so far."""

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

    def check_faults(self) -> None:
        """A fault may depend on the schedule; one that never happens is an error."""
        if self._unfired is not None and not self._fired:
            raise self._unfired


def _run(simulation: Simulation, plan: Plan, budget: int) -> _Found:
    """Follow the plan to its end, the budget's, or the first failure."""
    found = _Found(simulation.setting.ranks)
    progress = Progress(getattr(simulation.function, "__name__", "search"), budget)
    try:
        name, scheduler = next(plan)
        while True:
            execution = simulation.run(scheduler)
            found.take(name, execution)
            progress.count(scheduler.share if isinstance(scheduler, Dpor) else None)
            if found.failure is not None:
                return found
            if found.spent >= budget:
                # The plan may have come to its end with this one.
                found.exhausted = isinstance(scheduler, Dpor) and not scheduler.advance()
                return found
            name, scheduler = plan.send(execution)
    except StopIteration as end:
        found.exhausted = end.value
        return found
    finally:
        progress.close()


def _raise(function: RankFunction, failure: Execution, found: _Found) -> NoReturn:
    __tracebackhide__ = True
    with _quiet():
        best = confirm(function, shrink(function, failure))
    assert best.verdict is not None
    how = f"found by {found.last!r} in schedule {found.schedules}"
    if isinstance(best.verdict, COME_ONCE):
        best.verdict.add_note(how)
        best.verdict.throw()
    name = getattr(function, "__name__", "function")
    best.verdict.add_note(f"{how}, shrunk, and reproduced {TIMES}/{TIMES}; to run it again:")
    best.verdict.add_note(f"    {recipe(name, best)}")
    best.verdict.throw()
