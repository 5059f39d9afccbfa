"""Where the progress of a test is shown: on pytest's terminal, past the capture of output.

A worker of xdist has no terminal, and shows nothing.  Neither does a rank: it is one of many.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest


class PastCapture:
    """The terminal of a run, for `pytest_elastic.progress`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def _writer(self) -> Any:
        if not self._config.pluginmanager.has_plugin("terminalreporter"):
            return None
        return self._config.get_terminal_writer()

    def isatty(self) -> bool:
        """Whether pytest's terminal is one."""
        writer = self._writer()
        return writer is not None and bool(writer._file.isatty())

    def write(self, text: str, /) -> None:
        """Show it at once, whatever is captured."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        released: AbstractContextManager[object] = nullcontext()
        if capture is not None:
            released = capture.global_and_fixture_disabled()
        writer = self._writer()
        if writer is not None:
            with released:
                writer._file.write(text)
                writer._file.flush()

    def flush(self) -> None:
        """It was shown at once."""


class Nowhere:
    """What a rank's progress is shown on."""

    def isatty(self) -> bool:
        """It is none."""
        return False

    def write(self, text: str, /) -> None:
        """Show nothing."""

    def flush(self) -> None:
        """Show nothing."""
