"""The conformance suite of stores; its clauses are in `_store_clauses` and `_spans`.

*Rules.*  A clause checks one point of the contract on stores that it makes itself.  It runs in a thread of
its own, because a store that is wrong about time may block for ever.  All clauses run, one after the other,
but for those that take longer than `PATIENCE`: the next ones begin meanwhile.  What has not ended `LIMIT`
seconds after the last one began never will; such a thread is left behind.  Whatever was found is reported
together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import threading

Make = Callable[[], Any]

PATIENCE = 1.0
LIMIT = 10.0
CLAUSES: dict[str, Callable[[Make], None]] = {}


def clause(check: Callable[[Make], None]) -> Callable[[Make], None]:
    """Register a check by its name."""
    CLAUSES[check.__name__.lstrip("_")] = check
    return check


def equal(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r}, expected {expected!r}")


def refused(
    kind: type[Exception] | str, what: str, call: Callable[..., object], *arguments: Any
) -> Exception:
    """The error that the call raised, which must be of this kind (any module's, if given by its name)."""
    try:
        answer = call(*arguments)
    except Exception as error:
        if _is(error, kind):
            return error
        raise AssertionError(
            f"{what}: {type(error).__name__} ({_brief(error)}), expected {_name(kind)}"
        ) from error
    raise AssertionError(f"{what}: returned {answer!r}, expected {_name(kind)}")


def together(*calls: Callable[[], object]) -> list[Any]:
    """What the calls returned, or the errors that they raised, made at once by threads."""
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


def check_store(make_store: Make) -> None:
    """Check a kind of store against the contract: keys, values, operations and time.

    Takes some seconds, 10 more if the store blocks for ever in some clauses (their threads are left behind).

    Args:
        make_store: gives a new, empty store at each call, from any thread; its `clone()` must share the
            data.

    Raises:
        AssertionError: some clauses do not hold; the text has one line for each, as
            `add: add 0, 5, -7: [1, 6, -1], expected [0, 5, -2]`.
    """
    if found := complaints(make_store):
        raise AssertionError("\n".join(f"{name}: {text}" for name, text in found.items()))


def complaints(make_store: Make) -> dict[str, str]:
    """What is wrong, by clause."""
    from pytest_elastic.testing import _spans, _store_clauses  # noqa: F401 - importing them registers the clauses.

    runs = {}
    for name, check in CLAUSES.items():
        runs[name] = _Run(check, make_store)
        runs[name].thread.join(min(PATIENCE, LIMIT))
    deadline = Deadline.after(LIMIT)
    for run in runs.values():
        run.thread.join(deadline.remaining())
    return {name: run.complaint for name, run in runs.items() if run.complaint}


class _Run:
    """A clause that runs in a thread; `complaint` is empty once it has found nothing wrong."""

    def __init__(self, check: Callable[[Make], None], make_store: Make) -> None:
        self._check, self._make_store = check, make_store
        self.complaint = "did not end"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._check(self._make_store)
            self.complaint = ""
        except AssertionError as error:
            self.complaint = str(error)
        except Exception as error:
            self.complaint = f"{type(error).__name__}: {_brief(error)}"


def _is(error: Exception, kind: type[Exception] | str) -> bool:
    if isinstance(kind, type):
        return isinstance(error, kind)
    return any(base.__name__ == kind for base in type(error).__mro__)


def _name(kind: type[Exception] | str) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:80]
