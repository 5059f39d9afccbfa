"""pytest's terminal, past the capture of output: for progress, and for what ranks show while they run.

*Theory of operation.*  Capture is switched off and on for the whole process, which a thread must not do while
a test runs, and with which its own redirections would be lost.  So the stream that pytest had before capture
is copied once, when the session starts; who writes to the copy disturbs nobody.  A stream that has no
descriptor is never captured, and is used as it is.

A worker of xdist has a reporter and no terminal, and shows nothing.  Neither does a rank: it is one of many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

import pytest

from pytest_elastic.pristine import os


def uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """While the context lasts, output goes to the terminal."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()


@contextmanager
def captured(config: pytest.Config) -> Iterator[None]:
    """While the context lasts, between tests, output is captured as it is in them."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is None or not capture.is_globally_capturing() or not shows_output(config):
        yield
        return
    capture.resume_global_capture()
    try:
        yield
    finally:
        capture.suspend_global_capture(in_=False)


def shows_output(config: pytest.Config) -> bool:
    """Whether what is printed now is shown at once: with `-s`, and in `with capsys.disabled()`."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is None or not capture.is_globally_capturing():
        return True
    streams = capture._global_capturing
    return streams is None or not streams.is_started()


class PastCapture:
    """The terminal of a run, for any thread; `open` is for the first one, before there are tests.

    Attributes:
        fresh: whether nothing was written since a line of pytest's began; the next text ends that.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config, self.fresh = config, False
        self._file: TextIO | None = None

    def open(self) -> TextIO | None:
        """The stream; `None` where there is no terminal.  Takes capture off for a moment, once."""
        terminal = self._config.pluginmanager.has_plugin("terminalreporter")
        if self._file is None and terminal and not hasattr(self._config, "workerinput"):
            stream: TextIO = self._config.get_terminal_writer()._file
            with uncaptured(self._config):
                try:
                    copy = os.dup(stream.fileno())
                except (AttributeError, OSError, ValueError):
                    self._file = stream
                else:
                    self._file = open(copy, "w", encoding=stream.encoding, errors=stream.errors)  # noqa: SIM115
                    self._config.add_cleanup(self._file.close)
        return self._file

    def isatty(self) -> bool:
        """Whether pytest's terminal is one."""
        stream = self.open()
        return stream is not None and stream.isatty()

    def write(self, text: str, /) -> None:
        """Show it at once, whatever is captured."""
        stream = self.open()
        if stream is not None:
            begin, self.fresh = "\n" if self.fresh else "", False
            stream.write(begin + text)
            stream.flush()

    def flush(self) -> None:
        """It was shown at once."""
