"""The store as a pure state machine: no thread, no socket, no clock.

*Theory of operation.*  The state holds values and queues, side by side under the same names.  An operation
either answers at once or returns a `Waiter`: the record of who waits for which keys.  A write puts the
waiters that it concerns into `woken`; whoever carries the state (threads and a lock, a server, a simulator)
takes them from there, and asks `resume` whether each is done.  Time is the carrier's: it calls `abandon`
when a waiter's deadline has passed or its owner is gone, and `missing` for the error's text.

What a waiter sees of a key that comes and goes is decided by `wake`:

* `"latched"`: the write itself marks the key as seen, as in torch's TCPStore.  A waiter registers under each
  missing key; its last one completes it.
* `"level"`: the waiter looks again when it is resumed, as in torch's HashStore, and may find the key gone.
  It registers under its first missing key only, since nothing can complete it before that one exists.

An element of a queue is handed to the first waiting popper in either mode, so that poppers are served in
order.  Keys are `str` and values `bytes`, checked by the carrier.

Under `"level"` an operation may come in the middle of another one of its thread, by a signal's handler or a
finalizer.  Python runs those where a call begins or ends and where a loop turns, and finalizers where an
object with references is made: what must not be parted does none of that.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

from pytest_elastic.errors import QueueEmptyError
from pytest_elastic.store._arguments import BIGGEST, SMALLEST
from pytest_elastic.store._meetings import Meetings
from pytest_elastic.store._operations import OPERATIONS, Call, barrier_keys, meeting_key

_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]+)")
_DIGITS = 19  # No 64-bit number has more.
_SHOWN = 60
_HANDED = frozenset({"queue_pop", "meet"})  # Their waiters are given the answer, and do not look again.


class Waiter:
    """A blocked operation.

    Attributes:
        name: the operation, `"get"` for instance.
        keys: what it asked for, in its order.
        client: whose it is; the carrier's to set and to read.
        found: what it has seen so far, by key.
        pending: the keys under which it is registered.
        done: whether `result` is its answer.
    """

    __slots__ = ("client", "done", "found", "keys", "name", "pending", "result")

    def __init__(self, name: str, keys: Sequence[str]) -> None:
        self.name, self.keys = name, keys
        self.client: Hashable = None
        self.found: dict[str, bytes] = {}
        self.pending: dict[str, None] = {}
        self.done = False
        self.result: object = None

    def __repr__(self) -> str:
        return f"<{self.name} of {self.client!r} for {list(self.keys)}>"


class StoreState:
    """One store's data and waiters.  Not thread-safe; nothing blocks.

    Every operation of `Store` is a method; those that may block return their answer or a `Waiter`.

    Attributes:
        woken: waiters to be resumed, in order; the carrier takes and clears them after each write.
    """

    def __init__(self, wake: Literal["level", "latched"] = "latched") -> None:
        if wake not in ("level", "latched"):
            raise ValueError(f"wake must be 'level' or 'latched', not {wake!r}")
        self.wake = wake
        self.woken: list[Waiter] = []
        self._latched = wake == "latched"
        self._values: dict[str, bytes] = {}
        self._queues: dict[str, deque[bytes]] = {}
        self._waiters: dict[str, dict[Waiter, None]] = {}
        self._members: dict[str, list[int]] = {}
        self._meetings = Meetings()

    def apply(self, operation: Call, client: Hashable = None) -> object:
        """Do one operation, given as its name and its arguments.

        Returns:
            Its answer, or a `Waiter` of this client if it is blocked.

        Raises:
            ValueError: there is no operation of this name; or as the operation does.
        """
        name, *arguments = operation
        if name not in OPERATIONS:
            raise ValueError(f"a store has no operation {name!r}")
        answer: object = getattr(self, str(name))(*arguments)
        if isinstance(answer, Waiter):
            answer.client = client
        return answer

    # Values.

    def set(self, key: str, value: bytes) -> None:
        self._values[key] = value
        if key in self._waiters:
            self._wrote(key)

    def get(self, key: str) -> bytes | Waiter:
        value = self._values.get(key)
        return self._block("get", (key,)) if value is None else value

    def add(self, key: str, amount: int) -> int:
        while True:
            present = self._values.get(key)
            value = b"0" if present is None else present
            total = amount + (int(value) if len(value) < _DIGITS and value.isdigit() else _number(key, value))
            if not SMALLEST <= total <= BIGGEST:
                total = (total - SMALLEST) % 2**64 + SMALLEST
            if self._replace(key, present, b"%d" % total):
                return total

    def peek(self, key: str) -> bytes | None:
        """The value, `None` where there is none; no operation, for those who carry the state."""
        return self._values.get(key)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        while True:
            present = self._values.get(key)
            if present != expected and (present is not None or expected):
                return expected if present is None else present
            if self._replace(key, present, desired):
                return desired

    def delete_key(self, key: str) -> bool:
        self._members.pop(key, None)
        return self._values.pop(key, None) is not None

    def append(self, key: str, value: bytes) -> None:
        present = self._values.get(key)
        while not self._replace(key, present, (present or b"") + value):
            present = self._values.get(key)

    def multi_set(self, keys: Sequence[str], values: Sequence[bytes]) -> None:
        self._values.update(zip(keys, values, strict=True))
        for key in keys:
            if key in self._waiters:
                self._wrote(key)

    def multi_get(self, keys: Sequence[str]) -> list[bytes] | Waiter:
        values = self._values
        try:
            return list(map(values.__getitem__, keys))
        except KeyError:
            return self._block("multi_get", keys)

    def num_keys(self) -> int:
        return len(self._values)

    def list_keys(self) -> list[str]:
        return list(self._values)

    # Values and queues.

    def check(self, keys: Iterable[str]) -> bool:
        for key in keys:  # Not `all`: a generator costs more than most calls need.
            if key not in self._values and key not in self._queues:
                return False
        return True

    def wait(self, keys: Sequence[str]) -> Waiter | None:
        for key in keys:
            if key not in self._values and key not in self._queues:
                return self._block("wait", keys)
        return None

    def barrier(self, key: str, world_size: int) -> Waiter | None:
        count, last = barrier_keys(key)
        if self.add(count, 1) == world_size:
            self.set(last, b"1")
        return self.wait([last])

    # Queues.

    def queue_push(self, key: str, value: bytes) -> None:
        new = deque((value,))
        if key in self._queues:
            self._queues[key].append(value)
        else:
            self._queues[key] = new
        if key in self._waiters:
            self._pushed(key)

    def queue_pop(self, key: str, block: bool = True) -> bytes | Waiter:
        value = self._pop(key)
        if value is not None:
            return value
        if not block:
            raise QueueEmptyError("queue is empty", keys=(key,))
        return self._block("queue_pop", (key,))

    def queue_len(self, key: str) -> int:
        return len(self._queues.get(key, ()))

    # Who has come to a barrier.

    def arrive(self, key: str, rank: int, world_size: int = 0) -> int:
        """`add(key, 1)` which remembers that this rank did it; -1 is nobody in particular.

        `world_size`, how many are to come, is for those who look on.
        """
        total = self.add(key, 1)
        if rank >= 0:
            self._members.setdefault(key, []).append(rank)
        return total

    def members(self, key: str) -> list[int]:
        """The ranks that arrived, in their order."""
        return self._members.get(key, [])[:]

    def digest(self) -> int:
        """A number that is the same for the same values and queues, in this process."""
        queues = {(key, tuple(queue)) for key, queue in self._queues.items()}
        return hash((frozenset(self._values.items()), frozenset(queues), self._meetings.digest()))

    # Meetings.

    def post(self, name: str, count: int, place: int, call: bytes, value: bytes) -> None:
        woken, error = self._meetings.give(name, count, place, call, value)
        self.woken += woken
        if error is not None:
            raise error

    def meeting_call(self, name: str) -> bytes:
        """A call that was given to this meeting, `b""` if there is none; no operation."""
        return self._meetings.call(name)

    def meeting_signatures(self, name: str) -> frozenset[bytes]:
        """The signatures of the calls that were given to this meeting; no operation."""
        return self._meetings.signatures(name)

    def meet(
        self, name: str, count: int, place: int, needs: Sequence[int], call: bytes, value: bytes
    ) -> list[bytes] | Waiter:
        if place >= 0:
            self.post(name, count, place, call, value)
        waiter = Waiter("meet", tuple([meeting_key(name, each) for each in needs]))
        self._meetings.take(name, needs, waiter, call)
        if isinstance(waiter.result, Exception):
            raise waiter.result
        return waiter.result if waiter.done else waiter  # type: ignore[return-value]

    # Waiters.

    def waiters(self) -> list[Waiter]:
        """All that are blocked, each once."""
        waiters = dict.fromkeys(waiter for there in self._waiters.values() for waiter in there)
        return [*waiters, *self._meetings.waiters()]

    def missing(self, waiter: Waiter) -> tuple[str, ...]:
        """The keys that a blocked waiter lacks, in the order asked, each once."""
        if self._latched or waiter.name in _HANDED:
            return tuple(key for key in dict.fromkeys(waiter.keys) if key in waiter.pending)
        seen = self._values.keys() | waiter.found.keys()
        if waiter.name == "wait":
            seen |= self._queues.keys()
        return tuple(key for key in dict.fromkeys(waiter.keys) if key not in seen)

    def resume(self, waiter: Waiter) -> bool:
        """Whether the waiter is done; under `"level"` it looks at its keys again."""
        if not waiter.done and not self._latched and waiter.name not in _HANDED:
            self._leave(waiter)
            self._look(waiter)
        return waiter.done

    def abandon(self, waiter: Waiter) -> None:
        """Forget a waiter; an element that it was handed goes back to the head of its queue."""
        self._leave(waiter)
        if waiter.name == "queue_pop" and waiter.done:
            key = waiter.keys[0]
            new: deque[bytes] = deque((waiter.result,))  # type: ignore[arg-type]
            if key in self._queues:
                self._queues[key].appendleft(new[0])
            else:
                self._queues[key] = new
            if key in self._waiters:
                self._pushed(key)

    def _block(self, name: str, keys: Sequence[str]) -> Waiter:
        waiter = Waiter(name, keys)
        if name == "queue_pop":
            self._register(waiter, keys)
            if keys[0] in self._queues:
                self._pushed(keys[0])
        else:
            self._look(waiter)
        return waiter

    def _look(self, waiter: Waiter) -> None:
        """Take what is there; register under what is not, or be done."""
        missing = self._take(waiter)
        while missing:
            self._register(waiter, missing if self._latched else missing[:1])
            if self._latched or (again := self._take(waiter)) == missing:
                return
            self._leave(waiter)
            missing = again
        self._finish(waiter)

    def _take(self, waiter: Waiter) -> list[str]:
        """Take what is there; the keys that are not."""
        values = self._values
        if waiter.name == "wait":
            return [key for key in waiter.keys if key not in values and key not in self._queues]
        for key in waiter.keys:
            if key in values:
                value = values[key]
                waiter.found.setdefault(key, value)
        return [key for key in waiter.keys if key not in waiter.found]

    def _register(self, waiter: Waiter, keys: Iterable[str]) -> None:
        for key in keys:
            waiter.pending[key] = None
            alone: dict[Waiter, None] = {waiter: None}
            if key in self._waiters:
                self._waiters[key][waiter] = None
            else:
                self._waiters[key] = alone

    def _leave(self, waiter: Waiter) -> None:
        if waiter.name == "meet":
            self._meetings.leave(waiter)
            return
        for key in list(waiter.pending):
            self._unregister(waiter, key)

    def _unregister(self, waiter: Waiter, key: str) -> None:
        waiter.pending.pop(key, None)
        there = self._waiters.get(key, {})  # An interrupt may have ended `_register` halfway.
        there.pop(waiter, None)
        if not there and key in self._waiters and self._waiters[key] is there:
            del self._waiters[key]

    def _wrote(self, key: str) -> None:
        """A value is there: tell all but the poppers."""
        for waiter in list(self._waiters.get(key, ())):
            if waiter.name != "queue_pop":
                self._notice(waiter, key)

    def _pushed(self, key: str) -> None:
        """An element is there: tell all who wait for the key, give the elements to those who pop it."""
        for waiter in list(self._waiters.get(key, ())):
            if waiter.name == "wait":
                self._notice(waiter, key)
            elif waiter.name == "queue_pop" and self._pop(key, waiter) is not None:
                self._unregister(waiter, key)
                self.woken.append(waiter)

    def _notice(self, waiter: Waiter, key: str) -> None:
        """The key exists at this moment."""
        self._unregister(waiter, key)
        if self._latched:
            if waiter.name != "wait":
                waiter.found[key] = self._values[key]
            if waiter.pending:
                return
            self._finish(waiter)
        self.woken.append(waiter)

    def _finish(self, waiter: Waiter) -> None:
        waiter.done = True
        if waiter.name == "get":
            waiter.result = waiter.found[waiter.keys[0]]
        elif waiter.name == "multi_get":
            waiter.result = [waiter.found[key] for key in waiter.keys]

    # What nothing can part.

    def _replace(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Store `new` if the value is that very `old`, `None` for none."""
        if key in self._values:
            if self._values[key] is not old:
                return False
        elif old is not None:
            return False
        self._values[key] = new
        if key in self._waiters:
            self._wrote(key)
        return True

    def _pop(self, key: str, waiter: Waiter | None = None) -> bytes | None:
        """The queue's first element, for this waiter if it has none; `None` if there is nothing to take."""
        if key not in self._queues or (waiter is not None and waiter.done):
            return None
        queue = self._queues[key]
        value = queue[0]
        del queue[0]
        if not queue:
            del self._queues[key]
        if waiter is not None:
            waiter.result = value
            waiter.done = True
        return value


def _number(key: str, value: bytes) -> int:
    """The number that a value spells, as C's `strtoll` reads it; the empty value is 0.

    Raises:
        ValueError: it has no digits.
        IndexError: they do not fit 64 bits.
    """
    if not value:
        return 0
    match = _NUMBER.match(value)
    if match is None:
        raise ValueError(f"add: the value of {_shown(key)} is no number: {_shown(value)}")
    number = int(match[1] + match[2]) if len(match[2]) <= _DIGITS else BIGGEST + 1
    if not SMALLEST <= number <= BIGGEST:
        raise IndexError(f"add: the value of {_shown(key)} does not fit 64 bits: {_shown(value)}")
    return number


def _shown(text: str | bytes) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} long)"
