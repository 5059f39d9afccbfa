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

Who comes to a meeting creates the key that stands for it, so that members commute, unless their calls differ:
then it matters who learns of it.  Messages from several ranks to one do not commute, since a receive from any
source gets the first; a receive from a known one commutes.

All operations on one queue depend on each other, and on creations of a value of the queue's name, since a
wait is satisfied by either.  `EVERYTHING` is the place that operations on all keys read; operations that
create or delete a key *meet* there with others of their kind.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from pytest_elastic.store import OPERATIONS, Call, Effect, StoreState, barrier_keys, signature

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


def footprint(call: Call, state: StoreState, eager: bool, drops: bool = False) -> Footprint:
    """The accesses of an operation in the current state of the store.

    Args:
        call: the operation and its arguments.
        state: the store's state.
        eager: whether waits are eager, see above.
        drops: whether arrivals may be lost, so that they do not commute.
    """
    name, *arguments = call
    operation = OPERATIONS[name]
    if operation.effect is Effect.READ:
        access = AWAIT_VALUE if operation.blocks and not eager else VALUE
        return dict.fromkeys(operation.keys(arguments), access)
    if operation.effect is Effect.WRITE:
        return writing(state, operation.keys(arguments))
    if operation.effect is Effect.ARRIVE and drops:
        return updating(state, eager, *arguments)
    return _OF[operation.effect](state, eager or not operation.blocks, *arguments)


def writing(state: StoreState, keys: Sequence[str]) -> Footprint:
    found: Footprint = {}
    for key in keys:
        found |= {key: CREATE, EVERYTHING: MEET} if state.peek(key) is None else {key: OVERWRITE}
    return found


def updating(state: StoreState, _: bool, key: str, *__: Any) -> Footprint:
    found = writing(state, [key])
    found[key] |= VALUE
    return found


def arriving(state: StoreState, eager: bool, key: str, _: int, world_size: int = 0) -> Footprint:
    place = next_count(state, key)
    if not 0 < place < world_size or is_awaited(state, key):
        return updating(state, eager, key)
    access = (NEXT if place + 1 == world_size else ARRIVE) | 1 << _SIZES + world_size
    return {key: access, EVERYTHING: MEET}


def comparing(state: StoreState, eager: bool, key: str, expected: bytes, _: bytes) -> Footprint:
    present = state.peek(key)
    if present == expected or (present is None and not expected):
        return updating(state, eager, key)
    return {key: VALUE}


def deleting(state: StoreState, _: bool, key: str) -> Footprint:
    if state.peek(key) is None:
        return {key: PRESENCE}
    return {key: DELETE, EVERYTHING: MEET}


def waiting(state: StoreState, eager: bool, keys: Sequence[str]) -> Footprint:
    found: Footprint = {}
    for key in keys:
        found[key] = PRESENCE if eager or state.queue_len(key) else AWAIT
        found["queue", key] = PRESENCE
    return found


def meeting(state: StoreState, eager: bool, key: str, world_size: int) -> Footprint:
    members, last = barrier_keys(key)
    place = next_count(state, members)
    if not eager and 0 < place <= world_size and state.peek(last) is None and not is_awaited(state, members):
        access = LAST if place == world_size else MEET
        access |= 1 << _SIZES + world_size
        return {members: access, last: access, EVERYTHING: MEET}
    found = updating(state, eager, members)
    found |= writing(state, [last]) if place == world_size else {}
    for each, access in waiting(state, eager, [last]).items():
        found[each] = found.get(each, 0) | access
    return found


def next_count(state: StoreState, key: str) -> int:
    """The number that the next `add` of 1 returns; 0 if the value is no number."""
    count = state.peek(key) or b"0"
    return int(count) + 1 if count.isdigit() else 0


def is_awaited(state: StoreState, key: str) -> bool:
    return any(key in waiter.keys for waiter in state.waiters())


_MESSAGE = re.compile(r"(.*):(\*|\d+)>(\d+,-?\d+)#")
_RECEIVER = 1
_SIGNATURES = 251  # Kinds of calls; two that share one are taken for alike.


def announcing(state: StoreState, _: bool, *arguments: Any) -> Footprint:
    name, _count, place, *_needs, call, _value = arguments
    found: Footprint = dict.fromkeys(OPERATIONS["post"].keys(arguments), CREATE)
    mine = signature(call)
    if state.meeting_signatures(name) <= {mine}:
        found["call", name] = MEET | 1 << _SIZES + zlib.crc32(mine) % _SIGNATURES
    else:
        found["call", name] = found["mismatch", name] = OVERWRITE
    return found | _messages(name, place == _RECEIVER, OVERWRITE)


def expiring(call: Call) -> Footprint:
    """The accesses of the end of a wait by its timeout."""
    name, *arguments = call
    operation = OPERATIONS[name]
    found: Footprint = {}
    for key in operation.touched(arguments) or ():
        found[key] = found["queue", key] = PRESENCE
    if operation.effect is Effect.EXCHANGE:
        found["mismatch", arguments[0]] = VALUE
        found |= _messages(arguments[0], _RECEIVER not in arguments[3], VALUE)
    return found


def _messages(name: str, receives: bool, access: int) -> Footprint:
    """What an end of a message does to the list of those that nobody receives yet."""
    message = _MESSAGE.match(name)
    if message is None or (receives and message[2] != "*"):
        return {}
    return {("messages", f"{message[1]}:{message[3]}"): access}


def exchanging(state: StoreState, eager: bool, *arguments: Any) -> Footprint:
    name, _count, place, *_ = arguments
    found: Footprint = dict.fromkeys(
        OPERATIONS["meet"].touched(arguments) or (), VALUE if eager else AWAIT_VALUE
    )
    if place >= 0:
        return found | announcing(state, eager, *arguments)
    return found | {("mismatch", name): VALUE}  # Of one, it is told of all calls so far.


_OF: dict[Effect, Callable[..., Footprint]] = {
    Effect.UPDATE: updating,
    Effect.COMPARE: comparing,
    Effect.DELETE: deleting,
    Effect.PRESENCE: waiting,
    Effect.LIST: lambda _, __: {EVERYTHING: VALUE},
    Effect.ARRIVE: arriving,
    Effect.MEET: meeting,
    Effect.PUSH: lambda _, __, key, *___: {("queue", key): _WRITES, key: PRESENCE},
    Effect.POP: lambda _, __, key, *___: {("queue", key): _WRITES, key: PRESENCE},
    Effect.LENGTH: lambda _, __, key: {("queue", key): VALUE},
    Effect.ANNOUNCE: announcing,
    Effect.EXCHANGE: exchanging,
}
