"""Faults, stress and replay in pytest: an item's experiments, and the line that repeats them."""

from __future__ import annotations

import platform
import random
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic import __version__
from pytest_elastic.launch import RECORDING, forget, name_of, shorter
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._stash import EXPERIMENTS, PLAN
from pytest_elastic.replays import Experiment, Order, Recording, mismatch, read_orders, token_of
from pytest_elastic.report import FORCED_TOGETHER, TOGETHER

if TYPE_CHECKING:
    from pytest_elastic.faults import FaultPlan
    from pytest_elastic.launch import Elastic, RankGroup


class Reproduction:
    """The run's settings: what is forced, how often a test is repeated, by which seed.

    Attributes:
        rounds: how often each test is run.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        """Read them.

        Raises:
            pytest.UsageError: what is to be replayed cannot be.
        """
        self._config = config
        self._given, self._artifacts = options.replay, options.artifacts
        self._orders = _read(config, options.replay) if options.replay else []
        self.rounds = max(1, options.stress)
        self._jitter = options.stress > 0 and not options.replay
        self._seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)

    @property
    def together(self) -> float:
        """Seconds within which failures came together."""
        return FORCED_TOGETHER if self._orders else TOGETHER

    def begin(self, item: pytest.Item, first_round: bool = True) -> None:
        """A run of the item begins."""
        number = 0 if first_round else item.stash[EXPERIMENTS].round + 1
        item.stash[EXPERIMENTS] = Experiments(number)

    def check(self, item: pytest.Item, nprocs: int) -> None:
        """Fail if what is to be replayed is no run of this item, on so many ranks."""
        __tracebackhide__ = True
        number = len(item.stash[EXPERIMENTS].groups)
        for order in self._orders[number : number + 1]:
            if why := mismatch(order, item.nodeid, nprocs):
                pytest.fail(f"--elastic-replay: {self._given!r} cannot be replayed: {why}", pytrace=False)

    def attach(self, item: pytest.Item, group: RankGroup, plan: FaultPlan | None) -> None:
        """Observe a group that is about to work for the item."""
        experiments = item.stash[EXPERIMENTS]
        number = len(experiments.groups)
        order = self._orders[number] if number < len(self._orders) else None
        seed = f"{self._seed + experiments.round}/{number}" if self._jitter else None
        experiments.groups.append(Experiment(group, plan, order, seed))

    def report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """End the report of a failed item with how to repeat it."""
        experiments = item.stash[EXPERIMENTS]
        header = {"version": __version__, "test": item.nodeid, "python": platform.python_version()}
        recordings = [experiment.recording(**header) for experiment in experiments.groups]
        if not any(recording.entries for recording in recordings):
            return
        path = "" if self._given else self._write(item, recordings, experiments.groups[0].directory)
        token = self._given or token_of(recordings) or path
        if not token:
            return
        line = f"replay: pytest {shlex.quote(item.nodeid)} --elastic-replay={shlex.quote(token)}"
        if path:
            line = f"recording: {path}\n{line}"
        if self._jitter:
            again = f"--elastic-stress=1 --elastic-seed={self._seed + experiments.round}"
            line = f"failed in round {experiments.round + 1} of {self.rounds} (jitter: {again})\n{line}"
        if self._given:
            line = "\n".join([*filter(None, (one.progress() for one in experiments.groups)), line])
        report.sections.append(("elastic replay", line))
        for properties in (item.user_properties, report.user_properties):
            properties.append(("elastic.replay", token))

    def forget(self, item: pytest.Item) -> None:
        """An item has not failed: what an earlier failure left goes, if it is not just replayed."""
        if self._artifacts is not None and not self._given:
            forget(item.nodeid, self._artifacts)

    def _write(self, item: pytest.Item, recordings: list[Recording], directory: Path) -> str:
        """A file among the test's artifacts, or in the ranks' directory where there shall be none."""
        # A full or read-only disk must not hide the failure itself.
        with suppress(OSError):
            where = directory if self._artifacts is None else self._artifacts / name_of(item.nodeid)
            path = where / RECORDING
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(recording.dump() for recording in recordings), "utf-8")
            return str(shorter(path, self._config.invocation_params.dir))
        return ""


class Experiments:
    """The experiments of one run of an item.

    Attributes:
        round: how often it ran before.
        groups: one experiment for each group, in the order in which they started.
    """

    def __init__(self, number: int) -> None:
        self.round = number
        self.groups: list[Experiment] = []

    def check(self) -> None:
        """Fail where what was planned has not happened."""
        __tracebackhide__ = True
        from pytest_elastic.errors import DivergenceError, UnfiredFaultError

        for experiment in self.groups:
            try:
                experiment.check()
            except (DivergenceError, UnfiredFaultError) as error:
                pytest.fail(str(error), pytrace=False)


class ElasticFaults:
    """Plans faults for the groups that a test starts from now on; see the fixture `elastic_faults`.

    Attributes:
        plan: what is planned.
    """

    def __init__(self, item: pytest.Item, elastic: Elastic, seed: int) -> None:
        self._item, self._elastic, self._seed = item, elastic, seed

    @property
    def plan(self) -> FaultPlan:
        from pytest_elastic.faults import FaultPlan

        return self._item.stash.get(PLAN, None) or FaultPlan()

    def __call__(self, plan: FaultPlan | str) -> None:
        """Plan these faults, in place of those before, for each group that is started from now on."""
        from pytest_elastic.faults import parse

        self._item.stash[PLAN] = parse(plan) if isinstance(plan, str) else plan

    def kill_points(self, fn: Callable[..., Any], nprocs: int, sample: int = 10) -> list[FaultPlan]:
        """Single kills for `fn`: before an operation of a rank, among all that a run without faults does.

        Args:
            fn: is run once.
            nprocs: on how many ranks.
            sample: how many, chosen by `--elastic-seed` (0 where it is not given); all if there are fewer.
        """
        points = self._points(fn, nprocs)
        chosen = sorted(random.Random(self._seed).sample(range(len(points)), min(sample, len(points))))
        return [points[number] for number in chosen]

    def survive(self, fn: Callable[..., Any], nprocs: int, sample: int = 10) -> list[FaultPlan]:
        """Run `fn` with so many single kills, each besides what is planned: all other ranks must return.

        Returns:
            The kills; those that did not happen, since the rank came to fewer operations than in a run
            without faults, are left out, and others taken.

        Raises:
            ChildFailedError: others failed; a note says with which faults.
        """
        __tracebackhide__ = True
        from pytest_elastic.multiprocessing.errors import ChildFailedError

        points, planned = self._points(fn, nprocs), self.plan
        experiments = self._item.stash[EXPERIMENTS].groups
        done: list[FaultPlan] = []
        for point in random.Random(self._seed).sample(points, len(points)):
            if len(done) == sample:
                break
            self(planned | point)
            try:
                self._elastic.run(fn, nprocs, expect=self.plan.ends)
                done.append(point)
            except ChildFailedError as error:
                if set(error.failures) != set(point.ends) or _happened(experiments[-1]):
                    error.add_note(f"with the faults {self.plan}")
                    raise
                experiments.pop()
        self(planned)
        return done

    def _points(self, fn: Callable[..., Any], nprocs: int) -> list[FaultPlan]:
        from pytest_elastic.faults import FaultPlan, kill_points

        planned = self.plan
        self(FaultPlan())
        self._elastic.run(fn, nprocs)
        counts = self._item.stash[EXPERIMENTS].groups[-1].operations()
        self(planned)
        return kill_points(counts)


def _happened(experiment: Experiment) -> bool:
    """Whether all planned faults did."""
    from pytest_elastic.errors import UnfiredFaultError

    try:
        experiment.check()
    except UnfiredFaultError:
        return False
    return True


def again(item: pytest.Function, reproduction: Reproduction) -> None:
    """Run the body of a test that uses `elastic`, under stress, all times but the last one."""
    __tracebackhide__ = True
    for _ in range(1, reproduction.rounds):
        item.obj(**{name: item.funcargs[name] for name in item._fixtureinfo.argnames})
        item.stash[EXPERIMENTS].check()
        reproduction.begin(item, first_round=False)


def _read(config: pytest.Config, text: str) -> Sequence[Order]:
    try:
        return read_orders(text, config.invocation_params.dir)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--elastic-replay: {text!r} cannot be replayed: {error}") from None
