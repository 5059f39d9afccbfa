"""Progress line on the terminal during a search: number of schedules, rate, and share searched."""

from __future__ import annotations

import sys
from typing import TextIO

from pytest_elastic.clock import SYSTEM_CLOCK, Clock

_INTERVAL = 0.1  # Seconds between two updates.


class Progress:
    """Counts schedules and shows a progress line if the stream is a terminal.

    Args:
        title: name of the program that is searched.
        budget: the largest number of schedules.
        stream: by default `sys.stderr`.
    """

    def __init__(
        self, title: str, budget: int, stream: TextIO | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._title, self._budget, self._clock = title, budget, clock
        self._stream = sys.stderr if stream is None else stream
        self._shown = bool(self._stream.isatty())
        self._started = self._last = clock.monotonic()
        self._width = 0
        self.schedules = 0

    def count(self, share: float | None = None) -> None:
        """Count a schedule; `share` is the part of the space that has been searched, if known."""
        self.schedules += 1
        if self._shown and (now := self._clock.monotonic()) - self._last >= _INTERVAL:
            self._last = now
            rate = self.schedules / (now - self._started)
            text = f"{self._title}: {self.schedules} schedules, {rate:.0f}/s, no failure, "
            if share is None:
                self._show(text + f"{self.schedules / self._budget:.0%} of the budget")
            else:
                self._show(text + f"{share:.1%} of the space")

    def close(self) -> None:
        """Erase the line."""
        if self._width:
            self._show("")
            self._stream.write("\r")
            self._stream.flush()

    def _show(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)
