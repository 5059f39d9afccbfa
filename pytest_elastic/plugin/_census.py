"""Which threads were started by the tests' modules."""

from __future__ import annotations

import sys

from pytest_elastic.pristine import threading


def replaced_threads() -> str:
    """The package that has put threads of its own in the place of Python's, `""` for none."""
    for name in ("_start_new_thread", "_start_joinable_thread"):  # The latter from Python 3.13 on.
        start = getattr(sys.modules["threading"], name, None)  # As it is now.
        if start is not None and start.__module__ != "_thread":
            return str(start.__module__).partition(".")[0]
    return ""


class ThreadCensus:
    """Which threads were started by the tests' modules, and not by pytest and its plugins.

    Plugins may have threads of their own (a worker's receiver, say) that sleep while nothing runs; those
    of test modules may hold any lock at any time.
    """

    def __init__(self) -> None:
        self._before: set[threading.Thread] = set(threading.enumerate())
        self._ours: set[threading.Thread] = set()

    def conftests_loaded(self) -> None:
        """What is new came with the first conftest files."""
        self._ours = set(threading.enumerate()) - self._before

    def configured(self) -> None:
        """What is new came with plugins."""
        self._before = set(threading.enumerate()) - self._ours

    def foreign(self) -> list[str]:
        """Names of the living threads that the tests' modules started."""
        return sorted(thread.name for thread in set(threading.enumerate()) - self._before)
