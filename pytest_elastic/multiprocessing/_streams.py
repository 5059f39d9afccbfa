"""Output of ranks that the launcher shows while they run, and filtered copies of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from pytest_elastic.multiprocessing._follow import LineFilter
from pytest_elastic.multiprocessing._run_arguments import LogPlan
from pytest_elastic.multiprocessing.tail_log import TailLog


class ShownStreams:
    """The tails of one run.  Its lines go where the plan says, else to `sys.stdout` and `sys.stderr` of now.

    Attributes:
        filtered: open files of chosen lines, of stdout and of stderr; `None` where nothing is chosen.
    """

    def __init__(self, name: str, plan: LogPlan) -> None:
        self._name, self._plan = name, plan
        self._shown = (plan.shown_on or sys.stdout, plan.shown_on or sys.stderr)
        self.filtered: list[TextIO | None] = [None, None]
        self._tails: list[TailLog] = []

    def open(self) -> None:
        """Make what is needed.

        Raises:
            ValueError: `progbar_events` lacks a key.
            OSError: a file of chosen lines cannot be made.
        """
        dest, plan = self._plan.dest, self._plan
        teed = (dest.tee_stdouts, dest.tee_stderrs)
        paths = (dest.filtered_stdout, dest.filtered_stderr)
        for number in range(2):
            self._tails.append(
                TailLog(
                    self._name,
                    teed[number],
                    self._shown[number],
                    plan.prefixes,
                    progbar_events=plan.progbar_events if number == 0 else None,
                )
            )
            chosen = plan.filters[number]
            if chosen and paths[number]:
                file = self.filtered[number] = open(paths[number], "w", encoding="utf-8")  # noqa: SIM115
                self._tails.append(
                    TailLog(self._name, teed[number], file, plan.prefixes, log_line_filter=any_of(chosen))
                )

    def start(self) -> None:
        """Begin to follow, once `open` was called."""
        for tail in self._tails:
            tail.start()

    def stop(self) -> None:
        """Copy what is there and close the files; idempotent."""
        for tail in self._tails:
            tail.stop()
        for file in self.filtered:
            if file is not None:
                file.close()


def any_of(texts: Sequence[str]) -> LineFilter:
    """A filter for lines that contain one of these texts."""
    return lambda line: any(text in line for text in texts)
