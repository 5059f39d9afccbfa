"""Hooks in the process of pytest, for items that run on ranks: the values they see, the errors they raise.

*Rules.*  Hooks of a phase run on both sides: in each rank around the phase itself, and here around the
orders to the ranks.  Here the values of fixtures are those that are plain (`LauncherValues`).  A hook that
asks for another one has done its work in the ranks: its failure here is a warning, and the phase goes on.
Any other failure of a hook of `pytest_runtest_makereport` fails the item and not the session.  What hooks in
the ranks made of a report stands, whatever the same hooks make of it here, where they know less.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NoReturn

import pytest

from pytest_elastic.errors import FixtureElsewhereError
from pytest_elastic.plugin._function_report import add_output, verdict_of_run
from pytest_elastic.plugin._marker import is_elastic
from pytest_elastic.plugin._reporting import ElasticWarning, raise_verdict, warn_of
from pytest_elastic.plugin._stash import CONDUCTOR, ELASTIC, EXPERIMENTS, REPORT, VERDICT
from pytest_elastic.plugin._tracebacks import cut_error, excinfo_of
from pytest_elastic.report import PhaseReport, PhaseVerdict

_WORDS = (
    "a hook failed in pytest's process, where this test has no fixtures: they are in the ranks, where the "
    "hook ran as well"
)


class LauncherValues(dict[str, Any]):
    """`item.funcargs` in pytest's process: the plain values of one rank, and an error for others."""

    def __missing__(self, name: str) -> NoReturn:
        raise FixtureElsewhereError(name)

    def take(self, report: PhaseReport, params: Mapping[str, Any]) -> None:
        """Replace them by those that a rank reports."""
        self.clear()
        self.update({name: params[name] for name in report.params if name in params}, **report.values)


class LauncherHooks:
    """A plugin that is registered in the process of pytest only, after all others: it is around them."""

    def __init__(self, config: pytest.Config) -> None:
        self._runner: Any = config.pluginmanager.get_plugin("runner")
        self._warned: set[str] = set()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """See `_in_ranks`."""
        __tracebackhide__ = True
        return (yield from self._in_ranks(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """See `_in_ranks`."""
        __tracebackhide__ = True
        return (yield from self._in_ranks(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """See `_in_ranks`."""
        __tracebackhide__ = True
        return (yield from self._in_ranks(item, "teardown", nextitem=nextitem))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """The report as hooks leave it, if they do; the ranks' word stands."""
        verdict = item.stash.get(VERDICT, None)
        if verdict is None and call.excinfo is not None:
            if is_elastic(item) or ELASTIC in item.stash:  # A hook here has failed, or what runs functions.
                cut_error(call.excinfo.value, item.config)
                call.excinfo = excinfo_of(call.excinfo.value)
            verdict = verdict_of_run(item, call)
            if verdict is not None:
                item.stash[VERDICT] = verdict
        if verdict is None and call.when == "call" and ELASTIC in item.stash:
            add_output(item, call)
        try:
            report = yield
        except Exception as error:
            if not is_elastic(item):
                raise
            report = self._without_hook(item, call, error)
        if verdict is not None:
            _insist(report, verdict)
            del item.stash[VERDICT]
        if EXPERIMENTS in item.stash:
            reproduction = item.config.stash[CONDUCTOR].reproduction
            if report.failed and call.when != "teardown":
                reproduction.report(item, report)
            reproduction.forget_if_good(item, call.when, report)
        if (report.failed or report.passed) and verdict is not None and verdict.page:
            report.sections.append(("elastic page", f"page: {verdict.page}"))
        return report

    def _in_ranks(
        self, item: pytest.Item, when: str, **more: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Run the phase even if a hook here lacks the value of a fixture, and raise its verdict."""
        __tracebackhide__ = True
        try:
            return (yield)
        except FixtureElsewhereError as error:
            self._warn(item, f"pytest_runtest_{when}", error)
        verdict = item.stash.get(VERDICT, None)
        if verdict is None:
            getattr(self._runner, f"pytest_runtest_{when}")(item=item, **more)
        elif verdict.kind != "passed":
            raise_verdict(verdict, item)
        return None

    def _without_hook(
        self, item: pytest.Item, call: pytest.CallInfo[None], error: Exception
    ) -> pytest.TestReport:
        """The report that a hook failed to change."""
        report = item.stash.get(REPORT, None) or pytest.TestReport.from_item_and_call(item, call)
        if isinstance(error, FixtureElsewhereError):
            self._warn(item, "pytest_runtest_makereport", error)
            return report

        def fail() -> NoReturn:
            raise error

        failed = pytest.TestReport.from_item_and_call(item, pytest.CallInfo.from_call(fail, when=call.when))
        longrepr: Any = failed.longrepr
        longrepr.addsection("pytest-elastic", _WORDS)
        if report.longrepr:
            longrepr.addsection("the report was", report.longreprtext)
        return failed

    def _warn(self, item: pytest.Item, hook: str, error: FixtureElsewhereError) -> None:
        text = f"a hook of {hook} did not go on in pytest's process: {error}, where the hook runs as well"
        if text in self._warned:
            return
        self._warned.add(text)
        try:
            warn_of(item, text)
        except ElasticWarning:  # A filter made it an error.
            item.add_report_section("call", "hooks", text)


def _insist(report: pytest.TestReport, verdict: PhaseVerdict) -> None:
    """Restore the outcome that hooks in a rank have made, if the same hook here made another."""
    primary = verdict.primary.report if verdict.primary is not None else None
    made = primary.details.get("made") if primary is not None else None
    if made == "fail" and not report.failed:
        report.outcome = "failed"
        report.longrepr = report.longrepr or f"{verdict.summary}\n{verdict.headline}"
        report.__dict__.pop("wasxfail", None)
    elif made == "xfail" and report.failed and primary is not None:
        report.outcome = "skipped"
        report.wasxfail = primary.details["msg"]
