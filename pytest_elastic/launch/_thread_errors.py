"""Errors that end threads of a rank, where they say that ranks do not fit together.

*Theory.*  pytest only warns of a thread that an error has ended, and Python prints it, since nobody knows
whether the test counts on it.  An error of the store or of a group call is another matter: what the ranks
compute from then on is wrong, or what they wait for has never come.  So it is the error of the phase, or of
the function, that runs at that time, unless that fails by itself.

*Rule.*  A time-out counts only in a thread whose end is waited for: a daemon that nobody joins may wait for
what nobody sends any more.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from pytest_elastic.errors import CollectiveMismatch, DistBackendError, DistStoreError
from pytest_elastic.pristine import threading


class ThreadErrors:
    """The first of this process since the last look.  Whoever heard of such errors before still does."""

    def __init__(self) -> None:
        self._first: BaseException | None = None
        looked_at: Any = sys.modules["threading"]  # By Python's threads.
        self._tell, looked_at.excepthook = looked_at.excepthook, self._take

    def forget(self) -> None:
        """What ended threads by now is nobody's."""
        self._first = None

    def raise_first(self) -> None:
        """Raise the first one since the last look, if there is any."""
        __tracebackhide__ = True
        error, self._first = self._first, None
        if error is not None:
            raise error

    def _take(self, arguments: Any) -> None:
        error = arguments.exc_value
        waited = isinstance(error, DistBackendError | DistStoreError) and _is_awaited(arguments.thread)
        if self._first is None and (waited or isinstance(error, CollectiveMismatch)):
            self._first = error
        self._tell(arguments)


def _is_awaited(thread: threading.Thread | None) -> bool:
    if thread is None:
        return False
    return not thread.daemon or any(_joins(frame, thread) for frame in sys._current_frames().values())


def _joins(frame: FrameType | None, thread: threading.Thread) -> bool:
    while frame is not None:
        if frame.f_code is threading.Thread.join.__code__ and frame.f_locals.get("self") is thread:
            return True
        frame = frame.f_back
    return False
