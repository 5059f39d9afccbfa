"""Report of a test that runs functions on ranks: the screen that a test on ranks has.

*Rules.*  The cause is for the error that `elastic.run` has raised, if that is the test's own; an error that
the test has caught leaves nothing.  Cause, followers and sections are those of a test on ranks (`judge`,
`explain`); the headline says which line of the test has run the function.  What ranks wrote is shown where
pytest shows what the test has written: of a failure that run's, else that of the last runs, each with
the name of its function if there are several.
"""

from __future__ import annotations

import linecache
from collections import deque
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

import pytest

from pytest_elastic.hang import is_library
from pytest_elastic.launch import explain, log_sections, shorter
from pytest_elastic.plugin._stash import CONDUCTOR, ELASTIC, EXPERIMENTS
from pytest_elastic.plugin._tracebacks import cut_traceback
from pytest_elastic.report import PhaseVerdict, judge

_MOST_GROUPS = 4


def verdict_of_run(item: pytest.Item, call: pytest.CallInfo[None]) -> PhaseVerdict | None:
    """The verdict on a function whose failure is the item's; `None` where the item failed otherwise."""
    used = [node.stash[ELASTIC] for node in (item, item.session) if ELASTIC in node.stash]
    known = [failure for elastic in used for failure in elastic.failures]
    failure = next((one for one in known if call.excinfo and one.error is call.excinfo.value), None)
    if failure is None or call.excinfo is None:
        return None
    conductor, group = item.config.stash[CONDUCTOR], failure.group
    options, base = conductor.options, item.config.invocation_params.dir
    verdict = judge(failure.ends, group.nprocs, together=conductor.reproduction.together)
    artifacts = conductor.artifacts(item)
    line = line_of(call.excinfo.tb, base)
    known_of_hang = [f"\n{text}" for _, text in failure.findings.sections()]
    notes = [one for one in getattr(failure.error, "__notes__", ()) if one not in known_of_hang]
    verdict.headline = "\n".join(filter(None, [verdict.headline, line, *notes]))
    item.user_properties += explain(verdict, group, failure.ends, artifacts, failure.findings)
    if options.log != "none" and verdict.primary is not None:
        for name, text in log_sections(group, {}, list(group.reports().values()), verdict.primary.rank):
            item.add_report_section(call.when, name, text)
    return verdict


def add_output(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Add to a test that ended without an error of its functions what their ranks wrote."""
    options = item.config.stash[CONDUCTOR].options
    shown = options.passes_are_shown or call.excinfo is not None
    if options.log == "none" or (options.log == "failed" and not shown):
        return
    in_this_round = len(item.stash[EXPERIMENTS].groups)
    groups = item.stash[ELASTIC].groups[-in_this_round:][-_MOST_GROUPS:] if in_this_round else []
    for group in groups:
        of = f"{group.name}: " if len(groups) > 1 else ""
        for name, text in log_sections(group, {}, []):
            item.add_report_section(call.when, f"{of}{name}", text)


def line_of(trace: TracebackType, base: Path) -> str:
    """Which line of the test in a traceback has run the function; `""` where that is none of the user's."""
    ((frame, number),) = deque(walk_tb(cut_traceback(trace)), 1)
    path = frame.f_code.co_filename
    if is_library(path):
        return ""
    return f"run by {shorter(Path(path), base)}:{number}: {linecache.getline(path, number).strip()}"
