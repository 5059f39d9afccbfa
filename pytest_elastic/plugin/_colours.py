"""Colours of our part of a failure: headline, verdict and cause are red, as pytest's `E`.

*Rules.*  The writer decides whether there are colours: a terminal, `--color=yes`.  A report stays text
without them: it goes to workers' controller, JUnit's XML and other files.  So it is painted on its way to a
writer, by the object that pytest asks to show itself; that is still one of pytest's classes.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

_TOLD = re.compile(r"(?:HANG|MISMATCH|TIMEOUT)\b.*  |  (?:suspected )?cause: ")


class _Painter:
    """A terminal writer that paints our lines."""

    def __init__(self, writer: Any, headline: str) -> None:
        self._writer, self._headline = writer, headline.partition("\n")[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def line(self, text: str = "", **markup: bool) -> None:
        for line in text.split("\n"):
            ours = line != "" and (line == self._headline or _TOLD.match(line) is not None)
            self._writer.line(line, **({"red": True, "bold": True} if ours else markup))


class _Painted:
    """Mixed into a class of pytest's."""

    elastic_headline: str

    def toterminal(self, writer: Any) -> None:
        super().toterminal(_Painter(writer, self.elastic_headline))  # type: ignore[misc]


class _PaintedText(str):
    elastic_headline: str

    def toterminal(self, writer: Any) -> None:
        _Painter(writer, self.elastic_headline).line(str(self))


def paint(report: pytest.TestReport) -> None:
    """Have a report that has our headline (`elastic_headline`) show itself in colours."""
    headline, shown = getattr(report, "elastic_headline", None), report.longrepr
    if headline is None or shown is None:
        return
    painted: Any
    if isinstance(shown, str):
        painted = _PaintedText(shown)
    elif hasattr(shown, "reprtraceback"):
        painted = copy.copy(shown)
        painted.__class__ = type(type(shown).__name__, (_Painted, type(shown)), {})
    else:
        return
    painted.elastic_headline = headline
    report.longrepr = painted
