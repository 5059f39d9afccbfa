"""Marks that are made while a test runs on ranks: they count at home where all ranks have made them.

*Rules.*  A mark is the same on two ranks if name, arguments and node are; reasons may differ, and the first
rank's is shown.  Where only some ranks have made it the others decide: their item has no such mark, and so
the launcher's has none.  A rank that died as it was expected to has no say; another end without a report
has made no mark.  What the teardown makes comes too late for the outcome, as it does in pytest.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_elastic.pristine import pickle
from pytest_elastic.report import RankEnd


def marks_of(item: pytest.Item) -> list[list[pytest.Mark]]:
    """The marks of the item and of each node above it, from the top."""
    return [list(node.own_markers) for node in item.listchain()]


def new_marks(
    item: pytest.Item, known: list[list[pytest.Mark]], warn: Callable[[str], None]
) -> dict[bytes, bytes]:
    """In a rank: the marks that came since, pickled, by what makes them the same on each rank."""
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
    """In the launcher: mark the item and the nodes above it with what all ranks have made."""
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
