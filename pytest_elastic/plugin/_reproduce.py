"""Faults, stress and replay in pytest: an item's experiments, and the line that repeats them."""

from __future__ import annotations

import platform
import random
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic import __version__
from pytest_elastic.errors import DivergenceError, UnfiredFaultError
from pytest_elastic.faults import FaultPlan, kill_points, parse
from pytest_elastic.launch import RECORDING, forget, name_of, shorter
from pytest_elastic.multiprocessing.errors import ChildFailedError
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._stash import EXPERIMENTS, PLAN
from pytest_elastic.progress import Progress
from pytest_elastic.replays import Experiment, Order, Recording, mismatch, read_orders, token_of
from pytest_elastic.report import FORCED_TOGETHER, TOGETHER

if TYPE_CHECKING:
    from pytest_elastic.launch import Elastic, RankGroup


class Reproduction:
    """The options `--elastic-replay`, `--elastic-stress` and `--elastic-seed` of a run.

    Attributes:
        rounds: number of runs of each test.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        """Read the options.

        Raises:
            pytest.UsageError: `--elastic-replay` names nothing that can be replayed.
        """
        self._config = config
        self._given, self._artifacts = options.replay, options.artifacts
        self._traced = options.trace == "on"
        self._orders: Sequence[Order] = []
        try:
            if options.replay:
                self._orders = read_orders(options.replay, config.invocation_params.dir)
        except (OSError, ValueError) as error:
            text = f"--elastic-replay: {options.replay!r} cannot be replayed: {error}"
            raise pytest.UsageError(text) from None
        self.rounds = max(1, options.stress)
        self._jitter = options.stress > 0 and not options.replay
        self._seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)

    @property
    def together(self) -> float:
        """Seconds within which failures count as simultaneous."""
        return FORCED_TOGETHER if self._orders else TOGETHER

    def begin(self, item: pytest.Item, first_round: bool = True) -> None:
        """Begin a run of the item, the first one or the next one under stress."""
        number = 0 if first_round else item.stash[EXPERIMENTS].round + 1
        item.stash[EXPERIMENTS] = Experiments(number)

    def check(self, item: pytest.Item, nprocs: int) -> None:
        """Fail if the next order is none of this item on so many ranks."""
        __tracebackhide__ = True
        number = len(item.stash[EXPERIMENTS].groups)
        for order in self._orders[number : number + 1]:
            if why := mismatch(order, item.nodeid, nprocs):
                pytest.fail(f"--elastic-replay: {self._given!r} cannot be replayed: {why}", pytrace=False)

    def attach(self, item: pytest.Item, group: RankGroup, plan: FaultPlan | None) -> None:
        """Begin an experiment with a group that is about to work for the item."""
        experiments = item.stash[EXPERIMENTS]
        number = len(experiments.groups)
        order = self._orders[number] if number < len(self._orders) else None
        seed = f"{self._seed + experiments.round}/{number}" if self._jitter else None
        experiments.groups.append(Experiment(group, plan, order, seed))

    def command(self, item: pytest.Item) -> str:
        """The command that replays an item; `""` where there is nothing to replay, or only by a file."""
        recordings = self._recordings(item)
        known = any(recording.entries for recording in recordings)
        token = known and (self._given or token_of(recordings))
        return _command(item, token) if token else ""

    def _recordings(self, item: pytest.Item) -> list[Recording]:
        header = {"version": __version__, "test": item.nodeid, "python": platform.python_version()}
        known = item.stash.get(EXPERIMENTS, None)  # A test of lasting groups only has none.
        return [experiment.recording(**header) for experiment in known.groups] if known else []

    def report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Add to the report of a failed item the command that replays it."""
        recordings = self._recordings(item)
        if not any(recording.entries for recording in recordings):
            return
        experiments = item.stash[EXPERIMENTS]
        path = "" if self._given else self._write(item, recordings, experiments.groups[0].directory)
        token = self._given or token_of(recordings) or path
        if not token:
            return
        line = f"replay: {_command(item, token)}"
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

    def forget_if_good(self, item: pytest.Item, when: str, report: pytest.TestReport) -> None:
        """Remove the files of a failure of an item that has passed, or failed as expected; not in a replay.

        Whether it is good is known at the end of its teardown.
        """
        good = (report.passed and when == "call") or hasattr(report, "wasxfail")
        known = item.stash[EXPERIMENTS]
        known.good = good if when == "setup" else (known.good or good) and not report.failed
        if when == "teardown" and known.good and self._artifacts is not None and not self._given:
            forget(item.nodeid, self._artifacts, self._traced)

    def _write(self, item: pytest.Item, recordings: list[Recording], directory: Path) -> str:
        """Write a file among the test's artifacts, in the ranks' directory where there are none; its path."""
        # A full or read-only disk must not hide the failure itself.
        with suppress(OSError):
            where = directory if self._artifacts is None else self._artifacts / name_of(item.nodeid)
            path = where / RECORDING
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(recording.dump() for recording in recordings), "utf-8")
            return str(shorter(path, self._config.invocation_params.dir))
        return ""


def _command(item: pytest.Item, token: str) -> str:
    return f"pytest {shlex.quote(item.nodeid)} --elastic-replay={shlex.quote(token)}"


class Experiments:
    """The experiments of one run of an item.

    Attributes:
        round: number of runs before this one.
        good: whether the item has passed, or failed as expected, up to now.
        groups: one experiment for each group, in the order in which they started.
    """

    def __init__(self, number: int) -> None:
        self.round, self.good = number, False
        self.groups: list[Experiment] = []

    def check(self) -> None:
        """Fail where a planned fault or a forced order has not happened."""
        __tracebackhide__ = True
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
        return self._item.stash.get(PLAN, None) or FaultPlan()

    def __call__(self, plan: FaultPlan | str) -> None:
        """Plan these faults, in place of those before, for each group that is started from now on.

        Args:
            plan: of `pytest_elastic.faults`, or its text such as `"K1@4"`; `""` for none.
        """
        self._item.stash[PLAN] = parse(plan) if isinstance(plan, str) else plan

    def kill_points(self, fn: Callable[..., Any], nprocs: int, sample: int = 10) -> list[FaultPlan]:
        """A sample of the single kills of `fn`: one for each operation of a rank in a run without faults.

        Args:
            fn: rank function `fn(rank, nprocs)`; is run once.
            nprocs: number of ranks.
            sample: number of kills, chosen by `--elastic-seed` (0 where it is not given); all if there are
                fewer.
        """
        points = self._points(fn, nprocs)
        chosen = sorted(random.Random(self._seed).sample(range(len(points)), min(sample, len(points))))
        return [points[number] for number in chosen]

    def survive(self, fn: Callable[..., Any], nprocs: int, sample: int = 10) -> list[FaultPlan]:
        """Check that `fn` bears single kills, each besides the plan: every other rank must return.

        Args:
            fn: rank function `fn(rank, nprocs)`; is run once without faults, and once for each kill.
            nprocs: number of ranks.
            sample: number of kills, chosen as `kill_points` does.

        Returns:
            The kills.  One that did not happen, since the rank came to fewer operations than in the run
            without faults, is left out, and another one is tried.

        Raises:
            ChildFailedError: another rank failed; a note says with which faults.
        """
        __tracebackhide__ = True
        points, planned = self._points(fn, nprocs), self.plan
        experiments = self._item.stash[EXPERIMENTS].groups
        done: list[FaultPlan] = []
        with Progress(_name(fn), "kills", min(sample, len(points))) as progress:
            for point in random.Random(self._seed).sample(points, len(points)):
                if len(done) == sample:
                    break
                self(planned | point)
                try:
                    self._elastic.run(fn, nprocs, expect=self.plan.ends)
                    done.append(point)
                    progress.count()
                except ChildFailedError as error:
                    if set(error.failures) != set(point.ends) or not experiments[-1].pending:
                        error.add_note(f"with the faults {self.plan}")
                        raise
                    experiments.pop()
        self(planned)
        return done

    def _points(self, fn: Callable[..., Any], nprocs: int) -> list[FaultPlan]:
        planned = self.plan
        self(FaultPlan())
        with Progress(f"{_name(fn)} without faults", "runs", 1) as progress:
            self._elastic.run(fn, nprocs)
            progress.count()
        counts = self._item.stash[EXPERIMENTS].groups[-1].operations()
        self(planned)
        return kill_points(counts)


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", "fn")


@contextmanager
def again(item: pytest.Function, reproduction: Reproduction) -> Iterator[None]:
    """Run the body of a test that uses `elastic` under stress: all rounds, the last one in the context."""
    __tracebackhide__ = True
    if reproduction.rounds == 1:
        yield
        return
    with Progress(item.name, "rounds", reproduction.rounds) as progress:
        for _ in range(1, reproduction.rounds):
            item.obj(**{name: item.funcargs[name] for name in item._fixtureinfo.argnames})
            item.stash[EXPERIMENTS].check()
            reproduction.begin(item, first_round=False)
            progress.count()
        yield
        progress.count()
