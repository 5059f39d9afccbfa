"""Logs of a rank: pytest's live logs and its log file.

*Rules.*  pytest begins both after the fork, so that no rank has them.  Live logs are output of the rank.  The
log file is one of all processes, which append to it; a record of a rank has the rank in front of each line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest


class RankFormatter(logging.Formatter):
    """The records of another formatter, with a text in front of each line."""

    def __init__(self, inner: logging.Formatter | None, front: str) -> None:
        super().__init__()
        self._inner, self._front = inner or logging.Formatter(), front

    def format(self, record: logging.LogRecord) -> str:
        """The record as the other formatter has it, with the text in front."""
        lines = self._inner.format(record).split("\n")
        return "\n".join(f"{self._front}{line}" for line in lines)


def log_as_rank(config: pytest.Config, rank: int) -> None:
    """Begin live logs and the log file in a rank."""
    plugin: Any = config.pluginmanager.get_plugin("logging-plugin")
    if plugin is None:
        return
    if config.pluginmanager.has_plugin("terminalreporter"):
        config.get_terminal_writer()._file = sys.stdout
    root = logging.getLogger()
    for name in ("log_cli", "log_file"):
        handler, level = getattr(plugin, f"{name}_handler"), getattr(plugin, f"{name}_level")
        if name == "log_file":
            handler.setFormatter(RankFormatter(handler.formatter, f"[rank{rank}]:"))
        root.addHandler(handler)
        if level is not None:
            handler.setLevel(level)
            root.setLevel(min(root.level, level))
