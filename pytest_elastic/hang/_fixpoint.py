"""Who can go on: the least fixpoint over ranks and waits.

Ranks are bits of a number: `able` are those that can go on by themselves.  A wait can end if each key that
it lacks can come from a rank that can go on, and then its own rank can go on, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_elastic.hang._nodes import Barrier, Wait

Barriers = Mapping[str, Barrier]


def grow(able: int, waits: Sequence[Wait], barriers: Barriers) -> int:
    """All that can go on; barriers are by their last key."""
    blocked = [wait for wait in waits if not able >> wait.rank & 1]
    while True:
        ending = [wait for wait in blocked if not stuck(wait, able, barriers)]
        if not ending:
            return able
        for wait in ending:
            able |= 1 << wait.rank
        blocked = [wait for wait in blocked if not able >> wait.rank & 1]


def stuck(wait: Wait, able: int, barriers: Barriers) -> tuple[str, ...]:
    """The keys it lacks that none of these ranks can write."""
    return tuple(key for key in wait.missing if not _can_come(wait, key, able, barriers))


def _can_come(wait: Wait, key: str, able: int, barriers: Barriers) -> bool:
    if key in wait.writers:
        return bool(able >> wait.writers[key] & 1)
    barrier = barriers.get(key)
    return bool(able) if barrier is None else barrier.may_open(able)
