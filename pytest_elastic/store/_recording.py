"""What was called on a store: noted from a real one, and compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_elastic.store._handle import members_of
from pytest_elastic.store._mock import Recorder
from pytest_elastic.store._operations import Call


class Recording(Recorder):
    """Passes each call on to a store, after it noted it; see `recording`."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self._store = store

    def members(self, key: str) -> list[int] | None:
        """As the store knows them; not noted."""
        return members_of(self._store, key)

    def _answer(self, name: str, arguments: Call) -> Any:
        if name == "timeout":
            return self._store.timeout
        if name == "barrier" and arguments[2] is None:
            arguments = arguments[:2]
        answer = getattr(self._store, name)(*arguments)
        return self._of_clone(answer) if name == "clone" else answer

    def _of_clone(self, store: Any) -> Recording:
        other = Recording(store)
        other.ops = self.ops
        return other


def recording(store: Any) -> Recording:
    """A store that passes every call on to this one and notes it in `.ops`, as `MockStore` does.

    A call that raises is noted, too; `fail`, `delay` and `drop` work as on a `MockStore`.  Clones note into
    the same list.  Thread-safe, as far as the store is.
    """
    return Recording(store)


def assert_ops(store: Any, expected: Iterable[Call]) -> None:
    """Compare the notes of a store (or a list of such tuples) with what was to be called.

    Raises:
        AssertionError: they differ; its text has one line for each operation.
    """
    import difflib

    called, wanted = list(getattr(store, "ops", store)), list(expected)
    if called == wanted:
        return
    lines = difflib.ndiff([repr(call) for call in wanted], [repr(call) for call in called])
    text = "\n".join(line for line in lines if not line.startswith("?"))
    raise AssertionError(f"store operations differ (- expected, + called):\n{text}")
