"""Hypothesis on ranks: `@given` tests whose ranks all draw the same values, in lockstep.

*Theory of operation.*  Each rank runs the test's whole search by itself, so the searches must not part:
values are drawn by the test's source alone (or by `--hypothesis-seed`), no database is read or written, no
deadline is counted (an example may wait for its peers), and no example is run a second time.  The first
failure of a rank ends its search, unshrunk: hypothesis asks for that example once more, to report it, and
gets the same draws and the same error without a run, which no peer would join.

Pytest's own process only has the item: hypothesis' plugin must not ask it for the fixtures of the ranks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# As hypothesis' own plugin does, and those of trio and asyncio: there is no public name.
_SETTINGS = "_hypothesis_internal_use_settings"


@contextmanager
def unlooked_at(item: pytest.Item) -> Iterator[None]:
    """In pytest's process: inside, hypothesis' plugin does not look at the test's fixtures."""
    hypothesis: Any = sys.modules["hypothesis"]
    checks = hypothesis.HealthCheck
    ignored = [checks.function_scoped_fixture, checks.differing_executors]
    with _changed(item, lambda _: {"suppress_health_check": ignored}):
        yield


@contextmanager
def in_lockstep(item: pytest.Item) -> Iterator[None]:
    """In a rank, while the context lasts: the test draws the same on all ranks, and runs no example twice."""
    hypothesis: Any = sys.modules["hypothesis"]
    kept = (hypothesis.Phase.explicit, hypothesis.Phase.generate)

    def changes(before: Any) -> dict[str, Any]:
        return {
            "deadline": None,
            "database": None,
            "derandomize": item.config.getoption("--hypothesis-seed", None) is None,
            "phases": [phase for phase in before.phases if phase in kept],
            "report_multiple_bugs": False,
        }

    with _changed(item, changes) as function:
        if not hasattr(function, "hypothesis"):
            yield
            return
        body = function.hypothesis.inner_test
        once = _Once(body)

        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            return once.run(args, kwargs)

        function.hypothesis.inner_test = run
        try:
            yield
        except hypothesis.errors.Flaky as error:  # It drew in ways that cannot be repeated.
            raise (once.error or error) from None
        finally:
            function.hypothesis.inner_test = body


@contextmanager
def _changed(item: pytest.Item, changes: Callable[[Any], dict[str, Any]]) -> Iterator[Any]:
    """Inside, a test of hypothesis' has other settings, and then its own: others may share its function."""
    hypothesis: Any = sys.modules["hypothesis"]
    made = getattr(item, "obj", None)
    if not hypothesis.is_hypothesis_test(made):
        yield None
        return
    function = getattr(made, "__func__", made)
    stateful = not hasattr(function, "hypothesis")
    holder, name = (item.cls, "settings") if stateful else (function, _SETTINGS)  # type: ignore[attr-defined]
    before = getattr(holder, name)
    setattr(holder, name, hypothesis.settings(before, **changes(before)))
    try:
        yield function
    finally:
        setattr(holder, name, before)


class _Once:
    """The body of a test, which repeats the error of the first example that failed, without a run.

    Attributes:
        error: what the first example that failed has raised.
    """

    def __init__(self, body: Callable[..., Any]) -> None:
        self._body = body
        self.error: Exception | None = None
        self._traceback: Any = None
        self._draws: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Once more, or not."""
        __tracebackhide__ = True
        hypothesis: Any = sys.modules["hypothesis"]
        if self.error is not None:
            for name, what, how in self._draws:
                kwargs[name].draw(*what, **how)
            raise self.error.with_traceback(self._traceback)
        self._draws.clear()
        for name, value in kwargs.items():
            if isinstance(value, hypothesis.strategies.DataObject):
                value.draw = self._noting(name, value.draw)
        try:
            return self._body(*args, **kwargs)
        except hypothesis.errors.HypothesisException:  # As of `assume`.
            raise
        except Exception as error:
            self.error, self._traceback = error, error.__traceback__
            raise

    def _noting(self, name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        def note(*what: Any, **how: Any) -> Any:
            self._draws.append((name, what, how))
            return draw(*what, **how)

        return note
