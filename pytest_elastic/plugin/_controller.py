"""Controller of an item: runs its phases in lockstep on all ranks, and ends its group.

*Theory of operation.*  The item's own `setup`, `runtest` and `teardown` are replaced on the instance, so
that selection, reports, reruns and everything else of pytest see an ordinary item.  Each of them gives
the ranks an order, waits for all, and raises the merged result.  The call phase includes the ranks'
teardown and their exit, because a test has passed only when every rank reported and ended cleanly; what
the teardown said is raised in the teardown phase, where it belongs.
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.launch import (
    GRACE,
    Answers,
    Bye,
    RankGroup,
    ends_of,
    expected_but_alive,
    explain,
    keep_trace,
    leak_text,
    log_sections,
    unclean_ends,
)
from pytest_elastic.plugin._launcher_hooks import LauncherValues
from pytest_elastic.plugin._marker import Marker, read_marker, size_of
from pytest_elastic.plugin._options import timeout_is_off
from pytest_elastic.plugin._other_plugins import outcomes_before, take_recorded
from pytest_elastic.plugin._past_capture import uncaptured
from pytest_elastic.plugin._phase_report import take_marks
from pytest_elastic.plugin._preconditions import file_of
from pytest_elastic.plugin._reporting import merge_subtests, raise_verdict, report_leaks
from pytest_elastic.plugin._runner import Phase, RunItem
from pytest_elastic.plugin._stash import DEBUGGED, EXPERIMENTS, TIMEOUT, VERDICT
from pytest_elastic.pristine import os, signal
from pytest_elastic.progress import Progress
from pytest_elastic.report import PhaseReport, PhaseVerdict, RankEnd, judge, stack_text

if TYPE_CHECKING:
    from pytest_elastic.plugin._session import Conductor


class ItemController:
    """The phases of one item, in place of the item's own."""

    def __init__(self, item: pytest.Item, conductor: Conductor) -> None:
        self.item, self.conductor = item, conductor
        self.marker: Marker = read_marker(item)
        self.size = size_of(item, conductor.options.nprocs)
        self.method = conductor.launchers.method(self.marker.start_method, file_of(item))
        self.key = self._key()
        self._group: RankGroup | None = None
        self._finished = True
        self._alive: list[int] = []
        self._reports: list[PhaseReport] = []
        self._starts: dict[str, int] = {}
        self._durations: dict[str, float] = {}  # Seconds of each phase, on the slowest rank.
        self._teardown = PhaseVerdict("passed")
        self._values = LauncherValues()
        self._debugged: set[str] = set()  # Phases whose failure was seen in a rank's debugger.
        self._left = math.inf  # Seconds; what passes between two phases is not charged.

    def _key(self) -> Any:
        """Items with equal keys may share a group; ranks of one test are no other's by default."""
        shape = (self.size, self.method, tuple(sorted(self.marker.env.items())))
        if self.marker.lifetime == "class":
            return (*shape, getattr(self.item, "cls", None) or self.item)
        if self.marker.lifetime == "module":
            return (*shape, self.item.path)
        if self.marker.lifetime == "session":
            return (*shape, "session")
        return (*shape, "warm") if self.method.warm else (self.item,)

    def adopt(self) -> None:
        """Make the item run on ranks."""
        self.item.setup = self.setup  # type: ignore[method-assign]
        self.item.runtest = self.call  # type: ignore[method-assign]
        self.item.teardown = self.teardown  # type: ignore[method-assign]

    # The three phases.

    def setup(self) -> None:
        """Start the ranks, then run the setup phase on all."""
        __tracebackhide__ = True
        self.conductor.reproduction.begin(self.item)
        self._begin()

    def _begin(self) -> None:
        __tracebackhide__ = True
        self._finished, self._reports, self._teardown = False, [], PhaseVerdict("passed")
        self._durations = {}
        self._values.clear()
        self.item.funcargs = self._values  # type: ignore[attr-defined]
        if self.marker.faults is not None:
            self.marker.faults.check(self.size)
        self.conductor.reproduction.check(self.item, self.size)
        self._group = group = self.conductor.acquire(self)
        group.begin_test(self.marker.clock or self.conductor.options.clock)
        self._alive = list(group.directories)
        paths = [*group.stdouts.values(), *group.stderrs.values()]
        self._starts = {path: os.path.getsize(path) if os.path.exists(path) else 0 for path in paths}
        seconds, call_only = self._limit()
        self._left = math.inf if call_only else seconds
        following = self.conductor.next_use(self)
        self.conductor.reproduction.attach(self.item, group, self.marker.faults)
        names = self.conductor.names
        following_name = names[following] if following else None
        order = RunItem(names[self.item], following_name, outcomes_before(self.item))
        if group.fresh or self.marker.lifetime != "test":
            group.order(self._alive, order)
        else:
            group.renew_store(order)
        group.fresh = False
        self._raise("setup", self._judge(self._phase("setup")))

    def call(self) -> None:
        """Run the call phase on all ranks, then their teardown and their exit; again if under stress."""
        __tracebackhide__ = True
        rounds = self.conductor.reproduction.rounds
        with Progress(self.item.name, "rounds", rounds) if rounds > 1 else nullcontext() as progress:
            self._run()
            for _ in range(1, rounds):
                if progress is not None:
                    progress.count()
                if self._teardown.kind != "passed":
                    return
                self.conductor.reproduction.begin(self.item, first_round=False)
                self._begin()
                self._run()
            if progress is not None:
                progress.count()

    def _run(self) -> None:
        __tracebackhide__ = True
        seconds, call_only = self._limit()
        if call_only:
            self._left = seconds
        ends = self._phase("call")
        ends += self._finish()
        if judge(ends, self.size, self.conductor.options.partial_skip).kind == "passed":
            self.item.stash[EXPERIMENTS].check()
        verdict = self._judge(expected_but_alive(ends, self.marker.expect))
        if verdict.kind == "passed" and self.conductor.options.trace == "on" and self._group is not None:
            keep_trace(verdict, self._group, self.conductor.artifacts(self.item))
        self._raise("call", verdict)

    def teardown(self) -> None:
        """Report the teardown phase of the ranks; run it now if there was no call."""
        __tracebackhide__ = True
        ends = self._finish()
        verdict, self._teardown = self._teardown, PhaseVerdict("passed")
        if ends and verdict.kind == "passed":
            verdict = self._judge(ends)
        self._group = None
        self._raise("teardown", verdict)

    # What they have in common.

    def _limit(self) -> tuple[float, bool]:
        """Seconds allowed and whether only the call is timed; the marker, then pytest-timeout, then ours."""
        seconds, call_only = self.marker.timeout, False
        if seconds is None:
            default = 0.0 if timeout_is_off(self.item) else self.conductor.options.timeout
            seconds, call_only = self.item.stash.get(TIMEOUT, (default, False))
        return seconds or math.inf, call_only

    def _phase(self, when: str, limit: float | None = None) -> list[RankEnd]:
        group = self._group
        if group is None:
            return []
        try:
            group.loans.shown, begin = False, SYSTEM_CLOCK.monotonic()
            group.begin(self._alive, when, Phase(when))
            answers = self._answers(group, self._left if limit is None else limit)
            now = SYSTEM_CLOCK.monotonic()
            self._debugged = self._debugged - {when} | ({when} if group.loans.shown else set())
            ends = ends_of(answers, group, self.marker.expect, f"{limit or self._limit()[0]:g} s")
        except BaseException:
            self._abort()
            raise
        for end in ends:
            took = min(end.at, now) - begin if end.report is None else end.report.duration
            self._durations[when] = max(took, self._durations.get(when, 0.0))
            if end.report is None:
                self._alive.remove(end.rank)
            else:
                self._reports.append(end.report)
                self._take_extras(end.report)
        if when != "teardown":
            take_marks(self.item, ends)
        if hung := tuple(answers.silent):
            group.group.signal(hung, signal.SIGTERM)
            group.group.signal(hung, signal.SIGCONT)
        return ends

    def _answers(self, group: RankGroup, seconds: float) -> Answers:
        """The answers of the ranks within `seconds`; the rest of the time is for the next phase."""
        if self.conductor.debugging.is_debugged():
            return group.collect(self._alive, Deadline.after(None), self._is_failure)
        deadline, paused = Deadline.after(seconds), group.timers.paused
        answers = group.collect(self._alive, deadline, self._is_failure)
        self._left = deadline.later(group.timers.paused - paused).remaining()
        return answers

    def _is_failure(self, answer: Any) -> bool:
        if isinstance(answer, PhaseReport):
            return answer.outcome in ("failed", "exit")
        return bool(answer.lost or self.marker.expect.get(answer.rank) != answer.exitcode)

    def _finish(self) -> list[RankEnd]:
        """Teardown and exit of the ranks, once; the ends that are no clean exit."""
        group = self._group
        if self._finished or group is None:
            return []
        self._finished = True
        whole = len(self._alive) + len(set(self.marker.expect) - set(self._alive)) >= self.size
        ends = self._phase("teardown", None if whole else GRACE)
        group.timers.disarm()
        self._teardown = self._judge(ends)
        clean = (
            whole
            and self._teardown.kind == "passed"
            and not any(r.outcome == "failed" for r in self._reports)
        )
        if clean and self.conductor.keeps(self):
            # Ranks that run another test next must have no work left from this one; their end will tell.
            own = self.marker.lifetime == "test"
            if not own or not (any(report.threads for report in self._reports) or group.leftovers()):
                return []
        self.conductor.discard(self)
        return self._end(group, clean)

    def _end(self, group: RankGroup, clean: bool) -> list[RankEnd]:
        """End the ranks; stop those that do not exit."""
        try:
            group.begin(self._alive, "exit", Bye())
            late = group.wait_exits(self._alive, GRACE)
            ends = unclean_ends(group, self._alive, late)
            for rank in group.directories:
                group.server.drop(rank)
            # Ranks that hung had SIGTERM when it was seen; what is left of their grace is short.
            group.close(timeout=0 if clean and not late else GRACE / 2)
        except BaseException:
            self._abort()
            raise
        report_leaks(self.item, leak_text(group), clean, self.conductor.options.leaks)
        return ends

    def _abort(self) -> None:
        """The launcher was interrupted: stop the ranks within the grace, with their stacks if asked for."""
        group, self._group, self._finished = self._group, None, True
        self.conductor.discard(self)
        if group is None:
            return
        if self.conductor.options.full_trace and not group.group.over:
            for rank, stacks in group.stacks(self._alive).items():
                self.conductor.write(f"\nrank {rank} stood here:\n{stack_text(stacks)}\n")
        group.close(timeout=GRACE)

    def _take_extras(self, report: PhaseReport) -> None:
        """Copy properties, output and warnings of a rank's report to the item."""
        for name, value in report.properties:
            self.item.user_properties.append((f"{name}[rank{report.rank}]", value))
        if report.shown and report.rank == 0:
            self.conductor.write(report.shown)
        for message, category, file, line in report.warnings:
            self._record_warning(message, category, file, line)

    def _record_warning(self, message: Any, category: type, file: str, line: int) -> None:
        """As pytest does with a warning of an ordinary test; the rank applied the filters."""
        known = self.item.stash.setdefault(_WARNED, set())
        key = (str(message), category, file, line)
        if key in known:
            return
        known.add(key)
        with warnings.catch_warnings(record=True) as log:
            warnings.simplefilter("always")
            warnings.warn_explicit(message, category, file, line)
        for warning in log:
            self.item.ihook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": warning,
                    "nodeid": self.item.nodeid,
                    "when": "runtest",
                    "location": None,
                }
            )

    def _judge(self, ends: list[RankEnd]) -> PhaseVerdict:
        together = self.conductor.reproduction.together
        verdict = judge(ends, self.size, self.conductor.options.partial_skip, together)
        if self._group is not None:
            artifacts = self.conductor.artifacts(self.item)
            self.item.user_properties += explain(verdict, self._group, ends, artifacts)
        return verdict

    def _raise(self, when: str, verdict: PhaseVerdict) -> None:
        __tracebackhide__ = True
        reports = [report for report in self._reports if report.when == when]
        # Hooks that look at fixtures see the plain ones of the rank that decided, else the first's.
        decisive = (verdict.primary and verdict.primary.report) or next(iter(reports), None)
        if decisive is not None and decisive.when != "teardown":
            self._values.take(decisive, getattr(getattr(self.item, "callspec", None), "params", {}))
        take_recorded(self.item, reports)
        failed_subtests = self._report_subtests(reports)
        if failed_subtests and verdict.kind == "passed":  # As some ranks skipped them.
            text = f"contains {failed_subtests} failed subtest{'s'[: failed_subtests - 1]}"
            verdict = PhaseVerdict("failed", RankEnd(0, "failed", math.inf), text, text, verdict.sections)
        self.item.stash[VERDICT], self.item.stash[DEBUGGED] = verdict, when in self._debugged
        # Without the start of the ranks, and the call without their teardown.
        verdict.duration = self._durations.get(when, 0.0)
        log = self.conductor.options.log
        failed = verdict.kind not in ("passed", "skipped")
        shown = failed or self.conductor.options.passes_are_shown
        if self._group is not None and (log == "all" or (log == "failed" and shown)):
            first = verdict.primary.rank if verdict.primary is not None else None
            for name, text in log_sections(self._group, self._starts, reports, first):
                self.item.add_report_section(when, name, text)
        if verdict.kind == "passed":
            for name, text in verdict.sections:
                self.item.add_report_section(when, name, text)
            return
        raise_verdict(verdict, self.item)

    def _report_subtests(self, reports: list[PhaseReport]) -> int:
        """Report the subtests of a phase; how many failed."""
        merged = merge_subtests(self.item.config, reports, self.conductor.options.partial_skip)
        if merged:
            with uncaptured(self.item.config):
                for report in merged:
                    self.item.ihook.pytest_runtest_logreport(report=report)
        return sum(report.failed for report in merged)


_WARNED = pytest.StashKey[set[Any]]()
