"""Destination of a tail: a text stream that may fail, and may share a terminal with a progress bar."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.multiprocessing._follow import LogFile

BAR_PATIENCE = 1.0
_PIECES = 16  # To one write: more spare a slow `dst` some calls, and cost memory.


class Event(Protocol):
    """An event of `threading` or `multiprocessing`."""

    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Destination(Protocol):
    """A text stream; `flush()` is called where it exists, `closed` is read after an error."""

    def write(self, text: str, /) -> Any: ...


class Bar:
    """A progress bar that shares the terminal: asked to go away before lines are written."""

    def __init__(self, events: Mapping[str, Event]) -> None:
        if missing := {"trigger_clear", "cleared"} - set(events):
            raise ValueError(f"progbar_events needs {' and '.join(sorted(missing))}")
        self._trigger, self._cleared = events["trigger_clear"], events["cleared"]
        self.patience = Deadline.after(None)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The bar is cleared; if it has not answered after a second, go on all the same."""
        self._trigger.set()
        try:
            self._cleared.wait(min(BAR_PATIENCE, self.patience.remaining()))
            yield
        finally:
            self._trigger.clear()


class Sink:
    """Writes text to `dst`, and survives the errors of it.

    Attributes:
        error: the first one.
        closed: nothing can be written any more.
        writing_since: when the write that is under way began; `inf` if there is none.
    """

    def __init__(self, dst: Destination, lock: Any, events: Mapping[str, Event] | None) -> None:
        self._dst, self._lock = dst, lock or contextlib.nullcontext()
        self._bar = None if events is None else Bar(events)
        self._flush: Callable[[], object] = getattr(dst, "flush", lambda: None)
        self.error: Exception | None = None
        self.closed = False
        self.writing_since = math.inf

    def write(self, text: str) -> None:
        """Write and flush; text that cannot be written is lost."""
        if not text or self.closed:
            return
        self.writing_since = SYSTEM_CLOCK.monotonic()
        try:
            with self._lock, self._bar.away() if self._bar else contextlib.nullcontext():
                self._dst.write(text)
                self._flush()
        except Exception as error:
            self.closed = getattr(self._dst, "closed", False) is True
            if not self.closed:
                self.error = self.error or error
        self.writing_since = math.inf

    def give_up(self, why: str) -> None:
        """Write nothing more, though a write may be under way; for another thread than the writer."""
        self.error = self.error or TimeoutError(why)
        self.closed = True

    def hurry(self) -> None:
        """From now on, wait for the bar no longer than `BAR_PATIENCE` in all."""
        if self._bar is not None:
            self._bar.patience = Deadline.after(BAR_PATIENCE)


def copy_pieces(files: Iterable[LogFile], sink: Sink) -> list[LogFile]:
    """Write the next pieces of the files, at once; returns the files to be read next, in turn."""
    queue = deque(files)
    lines: list[str] = []
    for _ in range(_PIECES):
        if not queue:
            break
        file = queue.popleft()
        if text := file.read():
            lines.append(text)
        if file.behind:
            queue.append(file)
    sink.write("".join(lines))
    return list(queue)


def drain(files: list[LogFile], sink: Sink) -> None:
    """Write what the files hold now, half lines included, and close them."""
    sink.hurry()
    for file in files:
        file.look()
        file.seal()
    queue = files
    while queue and not sink.closed:
        queue = copy_pieces(queue, sink)
    sink.write("".join([file.end() for file in files]))
