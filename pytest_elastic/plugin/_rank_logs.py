"""What a rank shows at once, whatever is captured, and its log file.

*Rules.*  pytest begins live logs and the log file after the fork, so that no rank has them, and its handler
of live logs needs its terminal.  A rank's live logs go to a file of its own (`LIVE`), which pytest's process
follows and shows, with the rank in front.  So does what it writes in `with capsys.disabled()`, be it by
Python, by C or by a child.  Where nobody looks there is no such file, and such output stays captured.  The
log file is one of all processes, which append to it; a rank is in front of its lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.launch import LIVE
from pytest_elastic.plugin._other_plugins import logs_live
from pytest_elastic.pristine import os

_FIXTURES = {"capfd", "capfdbinary", "capsys", "capsysbinary", "capteesys"}


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
    if logs_live(config) and (directory / LIVE).exists():
        live = logging.FileHandler(directory / LIVE, encoding="utf-8")
        live.setFormatter(plugin.log_cli_handler.formatter)
        handlers.append((live, plugin.log_cli_level))
    root = logging.getLogger()
    for handler, level in handlers:
        root.addHandler(handler)
        if level is not None:
            handler.setLevel(level)
            root.setLevel(min(root.level, level))


def may_show(item: pytest.Item) -> bool:
    """Whether an item has a fixture by which it can show what it writes."""
    return not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def show_what_is_not_captured(config: pytest.Config, directory: Path) -> None:
    """In a rank: what is written while a test has capture disabled goes where it is shown."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is None or not (directory / LIVE).exists():
        return
    disabled = capture.global_and_fixture_disabled

    @contextmanager
    def disabled_and_shown() -> Iterator[None]:
        with disabled(), _lent(directory / LIVE):
            yield

    capture.global_and_fixture_disabled = disabled_and_shown


@contextmanager
def _lent(path: Path) -> Iterator[None]:
    """Descriptors 1 and 2 are of this file while the context lasts."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    own = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        for number, kept in zip((1, 2), own, strict=True):
            os.dup2(kept, number)
            os.close(kept)
