"""Clauses of a contract: checks that run in threads, and the complaints that they make.

*Rules.*  A clause checks one point of the contract on objects that it makes itself.  It runs in a thread of
its own, because an object that is wrong about time may block for ever.  Clauses run one after the other, but
the next one starts after `PATIENCE` even if the previous one has not ended.  A clause that has not ended
`LIMIT` seconds after the last one started never will; its thread is left behind.  All complaints are reported
together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import threading

Make = Callable[[], Any]
Clause = Callable[[Make], None]

PATIENCE = 1.0  # Seconds.
LIMIT = 10.0  # Seconds.


class Clauses(dict[str, Clause]):
    """The clauses of a contract, by title."""

    def add(self, title: str) -> Callable[[Clause], Clause]:
        """Decorator of a clause."""

        def decorate(check: Clause) -> Clause:
            self[title] = check
            return check

        return decorate

    def complaints(self, make: Make) -> dict[str, str]:
        """Run all clauses; the complaints by title."""
        runs = {}
        for title, check in self.items():
            runs[title] = _Run(check, make)
            runs[title].thread.join(min(PATIENCE, LIMIT))
        deadline = Deadline.after(LIMIT)
        for run in runs.values():
            run.thread.join(deadline.remaining())
        return {title: run.complaint for title, run in runs.items() if run.complaint}


class _Run:
    """A clause that runs in a thread; `complaint` is empty once it holds."""

    def __init__(self, check: Clause, make: Make) -> None:
        self.complaint = "did not end"
        self.thread = threading.Thread(target=self.run, args=(check, make), daemon=True)
        self.thread.start()

    def run(self, check: Clause, make: Make) -> None:
        try:
            check(make)
            self.complaint = ""
        except AssertionError as error:
            self.complaint = str(error)
        except Exception as error:
            self.complaint = f"{type(error).__name__}: {_brief(error)}"


def equal(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, expected {expected!r}")


def refused(
    kind: type[Exception] | str, what: str, call: Callable[..., object], *arguments: Any
) -> Exception:
    """The error that a call raises; it must be of this type, or of a type with this name in any module."""
    name = kind if isinstance(kind, str) else kind.__name__
    try:
        answer = call(*arguments)
    except Exception as error:
        if isinstance(kind, type) and isinstance(error, kind):
            return error
        if isinstance(kind, str) and any(base.__name__ == kind for base in type(error).__mro__):
            return error
        raise AssertionError(f"{what}: {type(error).__name__} ({_brief(error)}), expected {name}") from error
    raise AssertionError(f"{what}: returned {answer!r}, expected {name}")


def together(*calls: Callable[[], object]) -> list[Any]:
    """Make calls at the same time, in threads; returns their answers, or the errors that they raised."""
    found: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            found[place] = calls[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:80]
