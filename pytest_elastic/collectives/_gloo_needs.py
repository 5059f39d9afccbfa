"""Whom gloo's operations wait for: a checked call waits for these and for no others.

*Rules.*  A send of gloo's ends when its receiver is there, however little it sends; nothing else is awaited.
So who needs whom follows from gloo's algorithms:

1. `broadcast` goes down a tree: a member needs the root, all between it and the root, and its children.
2. In `gather` and `scatter` the root needs all, the others need the root.
3. `reduce` goes round a ring in segments, and from there to the root.  Segments without elements are not
   sent, so that with very few elements not all need all.
4. All others need all, but return at once where there are no elements; `all_to_all` does not.

A member that waits before it starts keeps those waiting who need it, and they may need less than it does: in
`broadcast` one between the root and a late leaf would keep the root.  It must start first, then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import ceil

from pytest_elastic.collectives._call import Call

_AT_ONCE = ("all_reduce", "all_gather", "reduce_scatter", "reduce")
_MOST_BYTES = 2**20  # Of a segment.

Step = tuple[str, tuple[int, int]]
"""`"send"`, `"receive"`: announce; `"sent"`, `"received"`: wait.  Of whose message, and its number."""


def needs_in_gloo(call: Call, size: int, place: int, root: int | None) -> tuple[int, ...]:
    """The places of the members whom a call waits for.

    Args:
        size: of the group.
        place: the caller's place in it; `root`: the root's.
    """
    everybody = tuple(other for other in range(size) if other != place)
    if call.operation.startswith(_AT_ONCE) and call.tensors and all(0 in one.shape for one in call.tensors):
        return ()
    if root is None:
        return everybody
    if call.operation == "broadcast":
        return _in_a_tree(size, place, root)
    if call.operation == "reduce":
        (tensor,) = call.tensors
        segment = _segment(tensor.size, tensor.itemsize, size)
        if tensor.size * tensor.itemsize > (2 * size - 1) * segment:
            return everybody
        full = ceil(tensor.size * tensor.itemsize / segment)
        return tuple(other for other in everybody if place not in _ring(size, root, full, other))
    return everybody if root == place else (root,)


def may_wait_first(call: Call, size: int, place: int, root: int | None) -> bool:
    """Whether a member may wait for those whom it needs before it starts; arguments as in `needs_in_gloo`."""
    mine = set(needs_in_gloo(call, size, place, root))
    others = {other: set(needs_in_gloo(call, size, other, root)) for other in range(size) if other != place}
    return all(mine <= needed | {other} for other, needed in others.items() if place in needed)


def _in_a_tree(size: int, place: int, root: int) -> tuple[int, ...]:
    """The number of a member's parent, counted from the root, is its own without the highest bit."""
    mine = (place - root) % size
    found, at = [], mine
    while at:
        at ^= 1 << (at.bit_length() - 1)
        found.append(at)
    bit = 1 << mine.bit_length()
    while mine + bit < size:
        found.append(mine + bit)
        bit <<= 1
    return tuple(sorted((one + root) % size for one in found))


def _segment(elements: int, itemsize: int, size: int) -> int:
    """Bytes of a segment of the ring, of which there are two or more for each member."""
    each = max(ceil(elements * itemsize / (size * _MOST_BYTES)), 2)
    return ceil(ceil(elements * itemsize / (size * each)) / itemsize) * itemsize


@lru_cache(maxsize=1024)
def _ring(size: int, root: int, full: int, absent: int) -> frozenset[int]:
    """The members whose `reduce` ends while one is absent; `full` segments are not empty."""
    done: set[Step] = set()
    pending = {place: list(_reduce(size, place, root, full)) for place in range(size) if place != absent}
    awaited: dict[str, Callable[[tuple[int, int]], Step]] = {
        "sent": lambda message: ("receive", message),
        "received": lambda message: ("send", message),
    }
    moved = True
    while moved:
        moved = False
        for steps in pending.values():
            while steps and (steps[0][0] not in awaited or awaited[steps[0][0]](steps[0][1]) in done):
                done.add(steps.pop(0))
                moved = True
    return frozenset(place for place, steps in pending.items() if not steps)


def _reduce(size: int, place: int, root: int, full: int) -> Iterator[Step]:
    """What a member does: two segments are under way at a time."""
    last, after = 2 * size - 2, (place + 1) % size
    for number in range(last + 2):
        for at, sends, receives in ((number - 2, "sent", "received"), (number, "send", "receive")):
            if not 0 <= at < last:
                continue
            if (at + 2 * (place + 2)) % (2 * size) < full:
                yield receives, (after, at)
            if (at + 2 * (place + 1)) % (2 * size) < full:
                yield sends, (place, at)
    if place == root:
        givers = [other for other in range(size) if other != root and 2 * other < full]
        yield from (("receive", (other, last)) for other in givers)
        yield from (("received", (other, last)) for other in givers)
    elif 2 * place < full:
        yield "send", (place, last)
        yield "sent", (place, last)
