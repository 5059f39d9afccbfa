"""Exporters: the files that a failed test leaves, a row of `EXPORTERS` for each.

Not imported with the part: most runs export nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_elastic.events import dump
from pytest_elastic.pristine import json
from pytest_elastic.report._html import page_of
from pytest_elastic.report._perfetto import trace_of
from pytest_elastic.report._timeline import Failure, RunHistory

__all__ = ["EXPORTERS", "Failure", "RunHistory", "export"]


def events_of(history: RunHistory) -> bytes:
    """The events, as JSON, one line each."""
    return "".join(f"{dump(event)}\n" for event in history.events).encode("utf-8", "backslashreplace")


def diagnosis_of(history: RunHistory) -> bytes | None:
    """The diagnosis as JSON; `None` where there is none."""
    return None if history.diagnosis is None else json.dumps(finite(history.diagnosis), indent=1).encode()


def graph_of(history: RunHistory) -> bytes | None:
    """The diagnosis in DOT; `None` where there is none."""
    return history.graph.encode("utf-8", "backslashreplace") or None


def finite(value: Any) -> Any:
    """The value with `None` for infinite numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# File name -> its contents; `None` where there is to be no such file.
EXPORTERS: dict[str, Callable[[RunHistory], bytes | None]] = {
    "events.jsonl": events_of,
    "hang.json": diagnosis_of,
    "hang.dot": graph_of,
    "page.html": page_of,
    "trace.json": trace_of,
}


def export(history: RunHistory, directory: Path) -> list[Path]:
    """Write all files of a failed test; those that were written.

    A full or read-only disk must not hide the failure itself: there is no error then, and fewer files.
    """
    written = []
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        for name, make in EXPORTERS.items():
            if (contents := make(history)) is not None:
                (directory / name).write_bytes(contents)
                written.append(directory / name)
    return written
