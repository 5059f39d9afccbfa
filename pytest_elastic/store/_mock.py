"""Recorders of store operations: a mock that answers what a test says, and one that passes calls on."""

from __future__ import annotations

import abc
import time  # As the test has it: a simulated rank's delays are virtual.
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pytest_elastic.store._api import Forwarder, Span
from pytest_elastic.store._arguments import as_span, as_value
from pytest_elastic.store._handle import members_of
from pytest_elastic.store._operations import OPERATIONS, Call

_OPERATIONS = {one.name for one in OPERATIONS.values() if one.torch is not None}
_OPERATIONS |= {"timeout", "set_timeout", "clone", "has_extended_api"}
_GIVE_LISTS = {one.name for one in OPERATIONS.values() if one.answer in ("L", "T")}


class Recorder(Forwarder, abc.ABC):
    """Notes each operation in `ops` as a tuple of its name and its arguments, as they were passed.

    Calls may come from any thread; `ops` is then in the order in which they began.  A spare argument that
    was left out is noted only where torch's stores have it: `("wait", keys)` but `("queue_pop", key, True)`
    and `("barrier", key, world_size, None)`.

    Attributes:
        ops: the notes; may be set to a new list at any time.
    """

    def __init__(self) -> None:
        self.ops: list[Call] = []
        self._errors: dict[str, deque[BaseException | type[BaseException]]] = {}
        self._delays: dict[str, float] = {}
        self._drops: list[tuple[str, object]] = []

    def fail(self, op: str, error: BaseException | type[BaseException], times: int = 1) -> None:
        """Raise `error` at the next `times` calls of this operation, which are noted but have no effect.

        Raises:
            ValueError: there is no such operation (of these three methods).
        """
        self._errors.setdefault(_known(op), deque()).extend([error] * times)

    def delay(self, op: str, seconds: float) -> None:
        """Let each call of this operation sleep before it does anything else."""
        self._delays[_known(op)] = seconds

    def drop(self, op: str, key: object = None) -> None:
        """Let calls of this operation (with this first argument, if one is given) be noted, and no more."""
        self._drops.append((_known(op), key))

    @property
    def timeout(self) -> timedelta:
        span: timedelta = self._forward("timeout")
        return span

    def set_timeout(self, timeout: Span) -> None:
        self._forward("set_timeout", timeout)

    def clone(self) -> Any:
        return self._forward("clone")

    def _forward(self, name: str, *arguments: Any) -> Any:
        self.ops.append((name, *arguments))
        if name in self._delays:
            time.sleep(self._delays[name])
        error = self._next_error(name)
        if error is not None:
            raise error
        if any(op == name and key in (None, *arguments[:1]) for op, key in self._drops):
            return None
        return self._answer(name, arguments)

    def _next_error(self, name: str) -> BaseException | type[BaseException] | None:
        try:
            return self._errors[name].popleft()
        except (KeyError, IndexError):
            return None

    @abc.abstractmethod
    def _answer(self, name: str, arguments: Call) -> Any:
        """What an operation that was noted, and neither failed nor dropped, gives."""


class MockStore(Recorder):
    """A store of answers: it notes every operation, and answers at once what the test says.

    Where the test says nothing of `get`, what was `set` is given, and `b"value"` for any other key.

    >>> store = MockStore(get=[b"1", b"2"], add=7)
    >>> store.get("a"), store.get("a"), store.add("n", 1)
    (b'1', b'2', 7)
    >>> store.ops
    [('get', 'a'), ('get', 'a'), ('add', 'n', 1)]

    Args:
        answers: an operation's name and its answer: a value, a callable of the operation's arguments, or an
            iterator or a sequence of which each call takes one.  `list_keys` and `multi_get` give lists: one
            that has no lists in it is their answer, each time.  `timeout` is seconds or a `timedelta`;
            `multi_get` answers as `get` does for each key, unless it is given.

    Raises:
        ValueError: there is no operation of such a name.
    """

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self._values: dict[object, bytes] = {}
        self._answers: dict[str, Any] = {
            "timeout": 1234,
            "get": lambda key: self._values.get(key, b"value"),
            "add": 3,
            "compare_set": lambda key, expected, desired: desired,
            "check": True,
            "delete_key": True,
            "num_keys": 0,
            "list_keys": [],
            "multi_get": lambda keys: [self._reply("get", (key,)) for key in keys],
            "queue_pop": lambda key, block: self._reply("get", (key,)),
            "queue_len": 0,
            "has_extended_api": True,
            "clone": self,
        }
        self._answers.update({_known(name): _one_by_one(name, answer) for name, answer in answers.items()})

    def _answer(self, name: str, arguments: Call) -> Any:
        if name in ("set", "multi_set"):
            with suppress(TypeError):  # It takes what no store would.
                written = [arguments[:2]] if name == "set" else zip(*arguments[:2], strict=False)
                self._values.update((key, as_value(value)) for key, value in written)
        answer = self._reply(name, arguments)
        return as_span(answer) if name == "timeout" else answer

    def _reply(self, name: str, arguments: Call) -> Any:
        answer: Any = self._answers.get(name)
        if hasattr(answer, "__next__"):
            try:
                return next(answer)
            except StopIteration:
                raise AssertionError(f"MockStore has no more answers for {name!r}") from None
        return answer(*arguments) if callable(answer) else answer


def _one_by_one(name: str, answer: Any) -> Any:
    """An iterator over a sequence of answers; anything else as it is."""
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes | bytearray):
        return answer
    if name in _GIVE_LISTS and not any(isinstance(one, list | tuple) for one in answer):
        return answer
    return iter(answer)


def _known(name: str) -> str:
    if name not in _OPERATIONS:
        raise ValueError(f"a store has no operation {name!r}; it has {', '.join(sorted(_OPERATIONS))}")
    return name


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
        if name != "clone":
            return answer
        clone = Recording(answer)
        clone.ops = self.ops
        return clone


def recording(store: Any) -> Recording:
    """A store that passes every call on to this one and notes it in `.ops`, as `MockStore` does.

    A call that raises is noted, too; `fail`, `delay` and `drop` work as on a `MockStore`.  Clones note into
    the same list.  Thread-safe, as far as the store is.

    >>> from pytest_elastic.store import HashStore
    >>> store = recording(HashStore())
    >>> store.set("a", "1")
    >>> store.ops
    [('set', 'a', '1')]
    """
    return Recording(store)


def assert_ops(store: Any, expected: Iterable[Call]) -> None:
    """Compare the notes of a store (or a list of such tuples) with what was to be called.

    Raises:
        AssertionError: they differ; its text has one line for each operation.

    >>> store = MockStore()
    >>> store.set("a", "1")
    >>> assert_ops(store, [("set", "a", "1")])
    """
    import difflib

    called, wanted = list(getattr(store, "ops", store)), list(expected)
    if called == wanted:
        return
    lines = difflib.ndiff([repr(call) for call in wanted], [repr(call) for call in called])
    text = "\n".join(line for line in lines if not line.startswith("?"))
    raise AssertionError(f"store operations differ (- expected, + called):\n{text}")
