"""Subtests of the ranks: one report for each, as a plain test has, with what came of it on which rank.

*Rules.*  Subtests of two ranks are one if message and values are the same; of those with the same a rank has
several, the first is one with the others' first, and so on.  The verdict on one is that of a phase (`judge`),
of the ranks that came to it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pytest_elastic.plugin._reporting import load_report, show
from pytest_elastic.report import PartialSkip, PhaseReport, RankEnd, judge

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
