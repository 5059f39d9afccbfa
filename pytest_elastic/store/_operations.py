"""The operations table: each operation of a store, with all that the package knows of it.

Everything that treats operations by name derives from here: wire layouts and dispatch, mocks and recorders,
torch's names, events, verdicts on hangs, lost writes, recordings and what commutes in a simulation.  A new
operation is a row here, a method of `StoreState`, and one each of `Handle`, `Store` and `Forwarder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

NUM_MEMBERS, LAST_MEMBER = "/num_members", "/last_member"
"""Endings of a barrier's two keys: the count of arrivals, and the key that releases the others."""

Call = tuple[Any, ...]
"""An operation's name and its arguments."""


class Effect(Enum):
    """What an operation does to its keys."""

    WRITE = "stores a value, whatever was there"
    UPDATE = "stores a value that depends on the present one, and answers by it"
    COMPARE = "stores its last argument if the present value is the expected one; answers what is then there"
    DELETE = "removes the value; answers whether there was one"
    READ = "answers the values"
    PRESENCE = "asks whether a value or a queue is there"
    LIST = "asks for all keys"
    ARRIVE = "counts a rank at a barrier; arguments: key of the count, rank, world size"
    MEET = "counts a caller at a barrier and waits for its release; arguments: prefix, world size"
    PUSH = "puts an element into a queue"
    POP = "takes an element from a queue"
    LENGTH = "asks for the length of a queue"
    ANNOUNCE = "gives to a meeting; arguments: name, count of members, own place, call, value"
    EXCHANGE = (
        "gives to a meeting and waits; arguments: name, count, own place or -1, needed places, call, value"
    )


_LOOKS = frozenset({Effect.READ, Effect.PRESENCE, Effect.LIST, Effect.LENGTH})
_GIVES = frozenset({Effect.ANNOUNCE, Effect.EXCHANGE})
_CREATES = _GIVES | {Effect.WRITE, Effect.UPDATE, Effect.COMPARE, Effect.ARRIVE, Effect.PUSH}


@dataclass(frozen=True, eq=False)
class Operation:
    """A row of the table.

    Attributes:
        name: that of its method.
        code: first byte of its requests on the wire.
        arguments: the wire's letter of each argument: `k` key, `K` keys, `v` value, `V` values, `n` number,
            `N` numbers, `b` truth.  Keys come first.
        answer: letter of its answer: `b`, `n`, `B` bytes, `L` list of bytes, `T` texts, `N` numbers; `""` for
            none.
        effect: what it does to its keys.
        blocks: whether it may wait, under a timeout.
        counts: whether its answer is the number of callers so far, where the key is a barrier's count.
        torch: other names that torch's C++ calls it by; `None` if torch's stores do not have it.
    """

    name: str
    code: int
    arguments: str
    answer: str
    effect: Effect
    blocks: bool = False
    counts: bool = False
    torch: tuple[str, ...] | None = ()

    @cached_property
    def many(self) -> bool:
        """Whether its first argument is a list of keys."""
        return self.arguments.startswith("K")

    @cached_property
    def keyless(self) -> bool:
        """Whether it concerns all keys and names none."""
        return self.arguments == ""

    @cached_property
    def declares(self) -> bool:
        """Whether a request says what its caller knows of the wait: that it may time out, and who writes."""
        return self.blocks and self.many

    @cached_property
    def carries(self) -> bool:
        """Whether values are among its arguments."""
        return "v" in self.arguments or "V" in self.arguments

    @cached_property
    def changes(self) -> bool:
        """Whether it may change anything."""
        return self.effect not in _LOOKS

    @cached_property
    def writes(self) -> bool:
        """Whether it may change anything but by taking an element."""
        return self.changes and self.effect is not Effect.POP

    @cached_property
    def creates(self) -> bool:
        """Whether it may create the keys that it names."""
        return self.effect in _CREATES

    @cached_property
    def reads(self) -> bool:
        """Whether it uses what others wrote, and writes nothing."""
        return not self.writes

    def keys(self, arguments: Sequence[Any]) -> tuple[str, ...]:
        """The keys that its caller named, in the order asked; in a meeting, the one that stands for it."""
        if self.many:
            return tuple(arguments[0])
        if self.effect in _GIVES:
            return (meeting_key(arguments[0], arguments[2]),) if arguments[2] >= 0 else ()
        return () if self.keyless else (arguments[0],)

    def touched(self, arguments: Sequence[Any]) -> tuple[str, ...] | None:
        """The keys that it uses: those of a barrier are two; `None` for all."""
        if self.keyless:
            return None
        if self.effect is Effect.EXCHANGE:
            return (*self.keys(arguments), *(meeting_key(arguments[0], place) for place in arguments[3]))
        return barrier_keys(arguments[0]) if self.effect is Effect.MEET else self.keys(arguments)

    def changed(self, arguments: Sequence[Any], answer: object) -> bool:
        """Whether it did what it does, by its answer: `compare_set` and `delete_key` may not."""
        if self.effect is Effect.COMPARE:
            return bool(answer == arguments[-1])
        return bool(answer) if self.effect is Effect.DELETE else True

    def barrier(self, keys: Sequence[str]) -> str:
        """The prefix of the barrier at which it arrives; `""` if it does not."""
        if self.effect is Effect.MEET:
            return keys[0]
        return keys[0].removesuffix(NUM_MEMBERS) if self.counts and keys[0].endswith(NUM_MEMBERS) else ""

    def meeting(self, keys: Sequence[str]) -> str:
        """The name of the meeting to which it comes; `""` if it does not."""
        return keys[0].rpartition("/")[0] if self.effect in _GIVES and keys else ""


def barrier_keys(prefix: str) -> tuple[str, str]:
    """The key that counts a barrier's callers, and the one that releases them."""
    return prefix + NUM_MEMBERS, prefix + LAST_MEMBER


def meeting_key(name: str, place: int) -> str:
    """The key that stands for a member of a meeting, in events and errors; no value has it."""
    return f"{name}/{place}"


OPERATIONS = {
    row.name: row
    for row in (
        Operation("set", 1, "kv", "", Effect.WRITE),
        Operation("get", 2, "k", "B", Effect.READ, blocks=True),
        Operation("add", 3, "kn", "n", Effect.UPDATE, counts=True),
        Operation("compare_set", 4, "kvv", "B", Effect.COMPARE),
        Operation("wait", 5, "K", "", Effect.PRESENCE, blocks=True),
        Operation("check", 6, "K", "b", Effect.PRESENCE),
        Operation("delete_key", 7, "k", "b", Effect.DELETE, torch=("deleteKey",)),
        Operation("append", 8, "kv", "", Effect.WRITE),
        Operation("multi_set", 9, "KV", "", Effect.WRITE),
        Operation("multi_get", 10, "K", "L", Effect.READ, blocks=True),
        Operation("num_keys", 11, "", "n", Effect.LIST, torch=("getNumKeys",)),
        Operation("list_keys", 12, "", "T", Effect.LIST),
        Operation("queue_push", 13, "kv", "", Effect.PUSH),
        Operation("queue_pop", 14, "kb", "B", Effect.POP, blocks=True),
        Operation("queue_len", 15, "k", "n", Effect.LENGTH),
        Operation("barrier", 16, "kn", "", Effect.MEET, blocks=True),
        Operation("arrive", 17, "knn", "n", Effect.ARRIVE, counts=True, torch=None),
        Operation("members", 18, "k", "N", Effect.READ, torch=None),
        Operation("post", 19, "knnvv", "", Effect.ANNOUNCE, torch=None),
        Operation("meet", 20, "knnNvv", "L", Effect.EXCHANGE, blocks=True, torch=None),
    )
}
"""All operations, by name."""


def with_effect(*effects: Effect) -> frozenset[str]:
    """The names of the operations that have one of these effects."""
    return frozenset(name for name, operation in OPERATIONS.items() if operation.effect in effects)
