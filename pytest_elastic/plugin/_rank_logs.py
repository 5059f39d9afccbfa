"""Logs of a rank: pytest's live logs and its log file.

*Rules.*  pytest begins both after the fork, so that no rank has them, and its handler of live logs needs its
terminal.  Live logs are output of the rank with `-s`, which is shown as it comes.  Else they go to a file of
the rank's own; pytest's process, which alone can write past its capture, shows what is new there at the end
of each phase.  The log file is one of all processes, which append to it; a rank is in front of its lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.plugin._other_plugins import logs_live

LIVE = "live.log"


class RankFormatter(logging.Formatter):
    """The records of another formatter, with a text in front of each line."""

    def __init__(self, inner: logging.Formatter, front: str) -> None:
        super().__init__()
        self._inner, self._front = inner, front

    def format(self, record: logging.LogRecord) -> str:
        """The record as the other formatter has it, with the text in front."""
        lines = self._inner.format(record).split("\n")
        return "\n".join(f"{self._front}{line}" for line in lines)


def log_as_rank(config: pytest.Config, rank: int, directory: Path) -> None:
    """Begin live logs and the log file in a rank that has such a directory."""
    plugin: Any = config.pluginmanager.get_plugin("logging-plugin")
    if plugin is None:
        return
    if config.pluginmanager.has_plugin("terminalreporter"):
        config.get_terminal_writer()._file = sys.stdout
    plugin.log_file_handler.setFormatter(RankFormatter(plugin.log_file_handler.formatter, f"[rank{rank}]:"))
    handlers = [(plugin.log_file_handler, plugin.log_file_level)]
    if logs_live(config):
        shown = config.getoption("capture", None) == "no"
        live = (
            logging.StreamHandler(sys.stdout)
            if shown
            else logging.FileHandler(directory / LIVE, encoding="utf-8")
        )
        live.setFormatter(plugin.log_cli_handler.formatter)
        handlers.append((live, plugin.log_cli_level))
    root = logging.getLogger()
    for handler, level in handlers:
        root.addHandler(handler)
        if level is not None:
            handler.setLevel(level)
            root.setLevel(min(root.level, level))


def news_of(directories: Mapping[int, Path], offsets: dict[str, int]) -> str:
    """The live logs of ranks beyond these offsets (path -> bytes), which are moved; ranks are in front."""
    lines = []
    for rank, directory in directories.items():
        path = directory / LIVE
        with suppress(OSError), path.open("rb") as file:
            file.seek(offsets.get(str(path), 0))
            new = file.read().decode("utf-8", "replace")
            offsets[str(path)] = file.tell()
            lines += [f"[rank{rank}]:{line}\n" for line in new.splitlines()]
    return "".join(lines)
