"""Reports to pytest: the error of a verdict, its text, leaks, and one report for each subtest.

*Rules.*  Subtests of two ranks are one if message and values are the same; of those that a rank has
several times, the first is one with the others' first, and so on.  A subtest is judged as a phase is, by
the ranks that came to it (`judge`).
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from typing import Any, NoReturn

import pytest

from pytest_elastic.errors import GroupTimeoutError, PartialSkipError, RankDiedError, RankError
from pytest_elastic.pristine import pickle
from pytest_elastic.report import PartialSkip, PhaseReport, PhaseVerdict, RankEnd, judge


class ElasticWarning(pytest.PytestWarning):
    """Something a test on ranks left behind."""


def raise_verdict(verdict: PhaseVerdict, item: pytest.Item) -> NoReturn:
    """Raise the error by which pytest itself judges skip, xfail and exit as for any item."""
    __tracebackhide__ = True
    end = verdict.primary
    assert end is not None
    if verdict.kind == "partial":
        raise PartialSkipError([end.rank], verdict.headline)
    if end.kind == "died":
        raise RankDiedError([end.rank], verdict.headline)
    if end.kind == "hung":
        raise GroupTimeoutError([end.rank], verdict.headline)
    if end.report is None:  # It has failed, and could not tell in time.
        raise RankError(end.rank, "", verdict.headline)
    raise _error_of(end.report, item) from None


def _error_of(report: PhaseReport, item: pytest.Item) -> BaseException:
    details = report.details
    if details.get("kind") == "exit":
        return pytest.exit.Exception(details["msg"], details["returncode"])
    if details.get("kind"):
        kinds = {
            "skip": pytest.skip.Exception,
            "xfail": pytest.xfail.Exception,
            "fail": pytest.fail.Exception,
        }
        return kinds[details["kind"]](details["msg"], pytrace=details["pytrace"])
    try:
        loaded = pickle.loads(report.error or b"")
    except Exception:
        loaded = None
    if isinstance(loaded, BaseException) and not isinstance(loaded, KeyboardInterrupt | SystemExit):
        return loaded
    if report.expected and next(item.iter_markers("xfail"), None) is not None:
        return pytest.xfail.Exception(details["expected"])  # Its type is judged where it is known.
    return RankError(report.rank, report.error_type, report.crash)


def report_of(item: pytest.Item, call: pytest.CallInfo[None], verdict: PhaseVerdict) -> pytest.TestReport:
    """The report that hooks in pytest's process get: as of any item, with the ranks' text in it."""
    report = pytest.TestReport.from_item_and_call(item, call)
    show(report, verdict, item.config)
    return report


def load_report(report: PhaseReport, config: pytest.Config) -> Any:
    """The report as the rank's pytest made it."""
    # A copy, since pytest builds its objects in the data.
    return config.hook.pytest_report_from_serializable(config=config, data=copy.deepcopy(report.data))


def show(report: pytest.TestReport, verdict: PhaseVerdict, config: pytest.Config) -> None:
    """Put the ranks' text in place of the launcher's in a report of pytest's."""
    end = verdict.primary
    report.duration = verdict.duration or report.duration
    if verdict.kind == "passed" or end is None:
        return
    if end.report is None or verdict.kind == "partial":
        _tell(report, verdict, verdict.headline)
        return
    theirs = load_report(end.report, config)
    if report.skipped and not hasattr(report, "wasxfail"):
        report.longrepr = theirs.longrepr if isinstance(theirs.longrepr, tuple) else report.longrepr
    elif hasattr(theirs.longrepr, "reprtraceback"):
        report.longrepr = theirs.longrepr
        _tell(report, verdict)
    else:
        text = end.report.details.get("text") or str(theirs.longrepr)
        _tell(report, verdict, f"{text}\n{verdict.headline}".rstrip())


def _tell(report: pytest.TestReport, verdict: PhaseVerdict, text: str | None = None) -> None:
    """Put headline, summary and sections of a verdict into a report.

    Args:
        text: in place of the traceback.
    """
    shown: Any = report.longrepr
    vars(report)["elastic_headline"] = verdict.headline  # For the colours, in whichever process shows it.
    if not hasattr(shown, "reprtraceback"):
        sections = (f"\n--- {title} ---\n{body}" for title, body in verdict.sections)
        report.longrepr = "\n".join([text or verdict.headline, *sections])
        return
    chain = getattr(shown, "chain", None)
    if shown.reprcrash is not None and verdict.summary:
        shown.reprcrash = copy.copy(shown.reprcrash)
        shown.reprcrash.message = verdict.summary
        if text is not None:
            path, line, _ = report.location
            shown.reprcrash.path, shown.reprcrash.lineno = path, (line or 0) + 1
    headline = copy.copy(shown.reprtraceback)
    headline.reprentries, headline.extraline, headline.style = [], text or verdict.headline, "short"
    if text is not None:
        shown.reprtraceback = headline
    elif chain is None and headline.extraline:  # As with `--tb=native`.
        entry = copy.copy(shown.reprtraceback.reprentries[0])
        entry.lines = [f"{headline.extraline}\n"]
        shown.reprtraceback.reprentries = [entry, *shown.reprtraceback.reprentries]
    if chain is not None:
        above = [(headline, None, None)] if text is None and headline.extraline else []
        whole = [] if text is not None else chain[:-1]
        shown.chain = [*above, *whole, (shown.reprtraceback, shown.reprcrash, None)]
    for title, body in verdict.sections:
        shown.addsection(title, body, "-")


def report_leaks(item: pytest.Item, text: str, clean: bool, leaks: str) -> None:
    """Warn of processes that the ranks of an item left behind, if any.

    Args:
        clean: whether that is all that is wrong; then it may be a failure.
        leaks: the option.
    """
    if not text:
        return
    if clean and leaks == "fail":
        pytest.fail(text, pytrace=False)
    try:
        warn_of(item, text)
    except ElasticWarning:  # A filter made it an error: it must not hide a worse one.
        if clean:
            raise
        item.add_report_section("call", "left behind", text)


def warn_of(item: pytest.Item, text: str) -> None:
    """Warn at the line where the test begins."""
    warnings.warn_explicit(ElasticWarning(text), None, str(item.path), (item.location[1] or 0) + 1)


_CONTEXT = "_subtest.context"


def merge_subtests(config: pytest.Config, reports: list[PhaseReport], partial: PartialSkip) -> list[Any]:
    """One report for each subtest in these reports of ranks."""
    merged: dict[tuple[str, int], list[PhaseReport]] = {}
    for report in reports:
        seen: Counter[str] = Counter()
        for subtest in report.subtests:
            key = repr(subtest.data.get(_CONTEXT))
            merged.setdefault((key, seen[key]), []).append(subtest)
            seen[key] += 1
    return [_merge(config, same, partial, len(reports)) for same in merged.values()]


def _merge(config: pytest.Config, same: list[PhaseReport], partial: PartialSkip, size: int) -> Any:
    ends = [RankEnd(one.rank, one.outcome, one.at, one.crash, one) for one in same]
    verdict = judge(ends, size, partial)
    primary = verdict.primary
    chosen = primary.report if primary is not None and primary.report is not None else same[0]
    report = load_report(chosen, config)
    if _CONTEXT in chosen.data:  # Which are text by now; pytest would quote that once more.
        object.__setattr__(report.context, "kwargs", chosen.data[_CONTEXT]["kwargs"])
    if verdict.kind == "partial":
        report.outcome = "failed"
    if not hasattr(report, "wasxfail"):
        show(report, verdict, config)
    report.duration = max(one.duration for one in same)
    return report
