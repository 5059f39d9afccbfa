"""Dependence of store operations: the relation on which the exhaustive search rests.

*Theory of operation.*  Two adjacent steps are *independent* if the other order leads to the same state and
the same answers.  Schedules that differ only in the order of independent steps form one trace, and one of
them is enough.  The fewer pairs are dependent, the fewer traces there are; a dependent pair that is called
independent loses traces.

The *access* of a step to a place (a value, a queue) is a set of bits:

* `VALUE` and `PRESENCE`: it reads the value, or only whether there is one;
* `OVERWRITE`, `CREATE`, `DELETE`: it writes, and there was a value, was none, or is none afterwards;
* `AWAIT` and `AWAIT_VALUE`: it begins to wait for the key, or gets it at once.

Under the `latched` wake rule a wait and the write that creates its key commute: whichever comes first, the
waiter has seen the key once both are done.  So a wait conflicts with deletions only, and a `get`, whose
answer is the first value that it sees, with overwriting, too.  (The rank's *next* step comes after that write
in either case; that is an edge of the trace, not a conflict.)  An *eager* wait reads the state on arrival and
is different: under `level` (a waiter is checked again, later), with a timeout of zero, and where deadlines
may fire at any point.

Arrivals at a `barrier` of the store commute with each other as long as they are not too many: none has an
answer, and all ranks continue after the last arrival, whichever that was.  `LAST` marks an arrival that would
be the last: two of these do not commute.

Arrivals at a barrier of the collectives are `add`s with the world size (`arrive`).  Their caller uses the
number that it gets only to find out whether it is the last one, and `members` only for the members.  So
arrivals commute (`ARRIVE`), except for the last one, which learns that it is; `NEXT` marks the last place
before it.  Of n! orders n remain.  (Compare observers in Aronis, Jonsson, Lang, Sagonas: Optimal Dynamic
Partial Order Reduction with Observers, TACAS 2018.)  Any other `add` returns its number and commutes with no
other.

All operations on one queue depend on each other, and on creations of a value of the queue's name, since a
wait is satisfied by either.  `EVERYTHING` is the place that operations on all keys read; operations that
create or delete a key *meet* there with others of their kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_elastic.store import StoreState
from pytest_elastic.store._state import Operation

VALUE, PRESENCE, OVERWRITE, CREATE, DELETE, AWAIT, AWAIT_VALUE, MEET, LAST, ARRIVE, NEXT = (
    1 << i for i in range(11)
)
_WRITES = OVERWRITE | CREATE | DELETE
_MEETING = MEET | LAST | ARRIVE | NEXT
_SIZES = 16  # From this bit on: the world size of a meeting.

Place = str | tuple[str, str]
Footprint = dict[Place, int]

EVERYTHING: Place = ("keys", "")

_CONFLICTS = {
    VALUE: _WRITES | _MEETING,
    PRESENCE: CREATE | DELETE | _MEETING,
    OVERWRITE: VALUE | AWAIT_VALUE | _WRITES | _MEETING,
    CREATE: VALUE | PRESENCE | _WRITES | _MEETING,
    DELETE: VALUE | PRESENCE | AWAIT | AWAIT_VALUE | _WRITES | _MEETING,
    AWAIT: DELETE | _MEETING,
    AWAIT_VALUE: OVERWRITE | DELETE | _MEETING,
    MEET: ~(MEET | LAST),
    LAST: ~(MEET | LAST),
    ARRIVE: ~(ARRIVE | NEXT),
    NEXT: ~(ARRIVE | NEXT),
}


class _Against(dict[int, int]):
    """By access: all accesses that do not commute with it."""

    def __missing__(self, access: int) -> int:
        found = 0
        for bit, others in _CONFLICTS.items():
            if access & bit:
                found |= others
        if access >> _SIZES:  # Meetings commute only within one world size.
            found &= ~(access >> _SIZES << _SIZES)
        self[access] = found
        return found


AGAINST = _Against()


def commute(one: Footprint, other: Footprint) -> bool:
    """Whether two steps that are both possible are independent."""
    if len(other) < len(one):
        one, other = other, one
    for place, access in one.items():
        there = other.get(place)
        if there is not None and (AGAINST[access] & there or access & there & (LAST | NEXT)):
            return False
    return True


def footprint(operation: Operation, state: StoreState, eager: bool) -> Footprint:
    """The accesses of an operation in the current state; for `eager` waits see above."""
    name, *arguments = operation
    return _OF[str(name)](state, eager, *arguments)


def _writing(state: StoreState, _: bool, key: str, *__: Any) -> Footprint:
    if state.peek(key) is not None:
        return {key: OVERWRITE}
    return {key: CREATE, EVERYTHING: MEET}


def _counting(state: StoreState, eager: bool, key: str, *_: Any) -> Footprint:
    found = _writing(state, eager, key)
    found[key] |= VALUE
    return found


def _arriving(state: StoreState, eager: bool, key: str, _: int, world_size: int = 0) -> Footprint:
    place = _place(state, key)
    if not 0 < place < world_size or _is_awaited(state, key):
        return _counting(state, eager, key)
    access = (NEXT if place + 1 == world_size else ARRIVE) | 1 << _SIZES + world_size
    return {key: access, EVERYTHING: MEET}


def _comparing(state: StoreState, eager: bool, key: str, expected: bytes, _: bytes) -> Footprint:
    present = state.peek(key)
    if present == expected or (present is None and not expected):
        return _counting(state, eager, key)
    return {key: VALUE}


def _deleting(state: StoreState, _: bool, key: str) -> Footprint:
    if state.peek(key) is None:
        return {key: PRESENCE}
    return {key: DELETE, EVERYTHING: MEET}


def _writing_many(state: StoreState, eager: bool, keys: Sequence[str], _: Sequence[bytes]) -> Footprint:
    found: Footprint = {}
    for key in keys:
        found.update(_writing(state, eager, key))
    return found


def _getting(_: StoreState, eager: bool, keys: str | Sequence[str]) -> Footprint:
    access = VALUE if eager else AWAIT_VALUE
    return {keys: access} if isinstance(keys, str) else dict.fromkeys(keys, access)


def _waiting(state: StoreState, eager: bool, keys: Sequence[str]) -> Footprint:
    found: Footprint = {}
    for key in keys:
        found[key] = PRESENCE if eager or state.queue_len(key) else AWAIT
        found["queue", key] = PRESENCE
    return found


def _meeting(state: StoreState, eager: bool, key: str, world_size: int) -> Footprint:
    members, last = f"{key}/num_members", f"{key}/last_member"
    place = _place(state, members)
    if not eager and 0 < place <= world_size and state.peek(last) is None and not _is_awaited(state, members):
        access = LAST if place == world_size else MEET
        access |= 1 << _SIZES + world_size
        return {members: access, last: access, EVERYTHING: MEET}
    found = _counting(state, eager, members)
    found |= _writing(state, eager, last) if place == world_size else {}
    for each, access in _waiting(state, eager, [last]).items():
        found[each] = found.get(each, 0) | access
    return found


def _place(state: StoreState, key: str) -> int:
    """The number that the next `add` of 1 returns; 0 if the value is no number."""
    count = state.peek(key) or b"0"
    return int(count) + 1 if count.isdigit() else 0


def _is_awaited(state: StoreState, key: str) -> bool:
    return any(key in waiter.keys for waiter in state.waiters())


_OF: dict[str, Callable[..., Footprint]] = {
    "set": _writing,
    "append": _writing,
    "add": _counting,
    "arrive": _arriving,
    "compare_set": _comparing,
    "delete_key": _deleting,
    "multi_set": _writing_many,
    "get": _getting,
    "multi_get": _getting,
    "members": lambda _, __, key: {key: VALUE},
    "check": lambda state, _, keys: _waiting(state, True, keys),
    "wait": _waiting,
    "num_keys": lambda _, __: {EVERYTHING: VALUE},
    "list_keys": lambda _, __: {EVERYTHING: VALUE},
    "barrier": _meeting,
    "queue_push": lambda _, __, key, *___: {("queue", key): _WRITES, key: PRESENCE},
    "queue_pop": lambda _, __, key, *___: {("queue", key): _WRITES, key: PRESENCE},
    "queue_len": lambda _, __, key: {("queue", key): VALUE},
}
