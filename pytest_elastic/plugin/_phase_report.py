"""Report of a phase from a rank: outcome, error, values of fixtures, marks.

*Rules.*  The report as it leaves `pytest_runtest_makereport` in the rank is what counts, with one exception:
what an `xfail` mark made of it is judged once, by the launcher, on the merged outcome.  The rank says only
whether the mark expected its error, for errors that the launcher cannot have.

A mark that is made while a test runs counts in the launcher if all ranks have made it.  It is the same on two
ranks if name, arguments and node are; reasons may differ, and the first rank's is shown.  If only some have
made it the others decide: their item has no such mark, and so the launcher's has none.  A rank that died as
expected does not count; another end without a report has made no mark.  Marks of the teardown come too late
for the outcome, as in pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from pytest_elastic.launch import of_timeout
from pytest_elastic.pristine import os, pickle
from pytest_elastic.report import Follows, Outcome, RankEnd

Made = Literal["", "pass", "skip", "xfail", "fail"]

_KINDS: dict[str, type[BaseException]] = {  # `xfail` first: it is a kind of `fail`.
    "skip": pytest.skip.Exception,
    "exit": pytest.exit.Exception,
    "xfail": pytest.xfail.Exception,
    "fail": pytest.fail.Exception,
}
_OUTCOMES: dict[Made, Outcome] = {"pass": "passed", "skip": "skipped", "xfail": "failed", "fail": "failed"}


def raised_outcome(call: pytest.CallInfo[Any]) -> Outcome:
    """The bare outcome: neither marks nor hooks have judged it."""
    if call.excinfo is None:
        return "passed"
    if isinstance(call.excinfo.value, pytest.skip.Exception):
        return "skipped"
    return "exit" if isinstance(call.excinfo.value, pytest.exit.Exception) else "failed"


def made_by_hooks(item: pytest.Item, call: pytest.CallInfo[Any], report: Any) -> Made:
    """The outcome that hooks made of the phase, `""` if they did not change it."""
    bare = raised_outcome(call)
    marked = next(item.iter_markers("xfail"), None) is not None
    if bare == "exit":
        return ""
    if hasattr(report, "wasxfail") and not report.failed:
        if call.excinfo is not None and isinstance(call.excinfo.value, pytest.xfail.Exception):
            return ""
        if marked and report.skipped == (bare == "failed"):
            return ""
        return "xfail" if report.skipped else "pass"
    if report.outcome == bare:
        return ""
    if bare == "passed" and marked and str(report.longrepr).startswith("[XPASS(strict)]"):
        return ""
    return {"passed": "pass", "skipped": "skip"}.get(report.outcome, "fail")  # type: ignore[return-value]


def describe(item: pytest.Item, call: pytest.CallInfo[Any], report: Any, follows: Follows) -> dict[str, Any]:
    """The fields of a `PhaseReport` that say how the phase ended.

    Args:
        follows: the kind of its error.
    """
    made = made_by_hooks(item, call, report)
    if made:
        return {"outcome": _OUTCOMES[made], **_as_made(made, report)}
    outcome = raised_outcome(call)
    if call.excinfo is None:
        return {"outcome": outcome}
    error = call.excinfo.value
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or str(report.longrepr or "")
    kind = next((name for name, kind in _KINDS.items() if isinstance(error, kind)), "")
    place = getattr(report.longrepr, "reprcrash", None)
    if kind == "skip":
        crash = str(error.msg)  # type: ignore[attr-defined]
    details = {
        "kind": kind,
        "msg": str(getattr(error, "msg", "")),
        "pytrace": getattr(error, "pytrace", True),
        "returncode": getattr(error, "returncode", None),
        "text": str(report.longrepr or ""),
    }
    expected = outcome == "failed" and kind != "xfail" and hasattr(report, "wasxfail")
    if expected:
        details["expected"] = report.wasxfail
    return {
        "outcome": outcome,
        "crash": crash,
        "place": f"{place.path}:{place.lineno}" if place is not None else "",
        "error": pickle.dumps(error) if not kind and pickles(error) else None,
        "error_type": type(error).__name__,
        "follows": follows,
        "of_timeout": of_timeout(error),
        "details": details,
        "expected": expected,
    }


def _as_made(made: Made, report: Any) -> dict[str, Any]:
    if made == "pass":
        return {}
    longrepr = report.longrepr
    text = str(longrepr or "") or f"a hook in the rank made it {report.outcome}"
    if made == "xfail":
        said = report.wasxfail
    elif isinstance(longrepr, tuple):
        said = longrepr[2]
    else:
        said = getattr(getattr(longrepr, "reprcrash", None), "message", "") or text
    details = {"kind": made, "msg": said, "pytrace": False, "text": text, "made": made}
    return {"crash": said, "details": details, "error_type": "", "of_timeout": False}


def plain_values(item: pytest.Item) -> tuple[dict[str, Any], list[str]]:
    """Fixtures' values that the launcher's hooks may see; and the names of those that are the parameters."""
    funcargs = getattr(item, "funcargs", None) or {}
    params = getattr(getattr(item, "callspec", None), "params", {})
    same = [name for name, value in funcargs.items() if name in params and params[name] is value]
    values = {
        name: value
        for name, value in funcargs.items()
        if name not in same
        and (
            type(value) in (str, int, float, bool, type(None))
            or (isinstance(value, os.PathLike) and pickles(value))
        )
    }
    return values, same


def plain(value: Any) -> Any:
    """The value, as text where it is no builtin: it is to be written in reports of any format."""
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def pickles(value: object) -> bool:
    """Whether it can be sent."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True


def marks_of(item: pytest.Item) -> list[list[pytest.Mark]]:
    """The marks of the item and of each node above it, from the top."""
    return [list(node.own_markers) for node in item.listchain()]


def new_marks(
    item: pytest.Item, known: list[list[pytest.Mark]], warn: Callable[[str], None]
) -> dict[bytes, bytes]:
    """In a rank: new marks, pickled, by a key that is equal for equal marks of all ranks."""
    found = {}
    for depth, (marks, before) in enumerate(zip(marks_of(item), known, strict=True)):
        for mark in marks:
            if any(mark is one for one in before):
                continue
            decisive = {key: value for key, value in mark.kwargs.items() if key != "reason"}
            try:
                key = pickle.dumps((depth, mark.name, mark.args, decisive))
                found[key] = pickle.dumps((depth, mark.name, mark.args, dict(mark.kwargs)))
            except Exception as error:
                warn(f"the mark {mark.name!r} of a rank cannot be sent, so it does not count: {error}")
    return found


def take_marks(item: pytest.Item, ends: list[RankEnd]) -> None:
    """In the launcher: give the item and the nodes above it the marks that all ranks have made."""
    reports = [end.report for end in ends if end.report is not None]
    if not reports or any(end.report is None and end.kind != "passed" for end in ends):
        return
    for key, pickled in reports[0].marks.items():
        if not all(key in report.marks for report in reports):
            continue
        try:
            depth, name, args, kwargs = pickle.loads(pickled)
        except Exception:  # As of a class in a module that only the ranks have.
            continue
        node, made = item.listchain()[depth], getattr(pytest.mark, name).with_args(*args, **kwargs)
        # Hooks mark the item here too, and a fixture of a module marks it on each of its ranks.
        if repr(made.mark) not in map(repr, node.own_markers):
            node.add_marker(made)
