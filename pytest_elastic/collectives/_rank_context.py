"""Rank contexts: over which store, as which rank and in which mode a thread's collectives are seen.

*Rules.*  A process has one context, of the rank that it is; a thread may have one of its own, as each rank of
a simulation does.  A process that a rank forks has none: its torch is its own affair.  A process that learns
only from its own code which rank it is (`declare_worlds`) has one for each world that it makes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from pytest_elastic.pristine import os, threading

MODES = ("check", "carry", "off")
"""`"check"`: a header goes through the store, then the real operation runs; `"carry"`: the data goes, too."""


INLINE = 16 * 2**10


class RankContext:
    """One rank as the collectives see it.

    Args:
        store: a store of ours that the ranks share.
        rank: 0 to `size` - 1.
        size: number of ranks.
        mode: one of `MODES`.
        strict: whether a carried rooted operation waits for all members.  Otherwise a call waits only for
            those whom gloo would need: a root of `broadcast` for nobody.  Checked ones are never strict.
        threaded: whether the rank is a thread: groups are made without a network, and all tensors go inline.

    Attributes:
        groups: what is known of each of torch's process groups; `None` for one that is not looked at.
        counts: how many meetings of each name this rank has been to, where no group counts them.
        inline: up to how many bytes a tensor goes through the store; bigger ones go through shared memory.
        world: what torch knows of its process groups, if that is this rank's own.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        mode: str = "check",
        strict: bool = True,
        threaded: bool = False,
    ) -> None:
        self.store, self.rank, self.size, self.mode, self.strict = store, rank, size, mode, strict
        self.threaded = threaded
        self.world: Any = None
        self.groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.counts = Counter[Hashable]()
        self.inline = math.inf if threaded else INLINE

    def inherit(self, former: RankContext) -> None:
        """Take over the groups of the former context of this rank."""
        for process_group, group in list(former.groups.items()):
            self.groups[process_group] = group
            if group is not None:
                group.context = self


class _Own(threading.local):
    """A thread's own context; most threads have only the class's, which is found faster than none."""

    context: RankContext | None = None


_process: RankContext | None = None
Absent = tuple[list[int], str]
"""Ranks that cannot come any more, and why; none where all may."""

_gather: Callable[[str, int, int, float], Absent] | None = None
_declare: Callable[[str, int, int], Any] | None = None
_own = _Own()


def use_store(
    store: Any, rank: int, size: int, mode: str = "check", strict: bool = True
) -> RankContext | None:
    """Have this process's collectives seen from now on, over this store; the arguments are a context's.

    Groups that the process has go on over the new store.  With the mode `"off"` none is seen, and nothing is
    returned.
    """
    global _process
    former, _process = _process, None
    if mode != "off":
        _process = RankContext(store, rank, size, mode, strict)
        if former is not None:
            _process.inherit(former)
    return _process


def declare_worlds(
    gather: Callable[[str, int, int, float], Absent], declare: Callable[[str, int, int], Any]
) -> None:
    """Have each world of this process declared when torch has connected it; only then it may be seen.

    Calls are checked and never carried: what connects the ranks is made before anybody knows them.

    Args:
        gather: is given what will identify the connection, the rank, the world size and torch's timeout in
            seconds.  It blocks until the others have come, or may come where nobody sees it.
        declare: is given what identifies the connection, the rank and the world size.  It blocks until the
            answer is the same for all members: a store that they share, or `None`: the world is not seen.
    """
    global _gather, _declare
    _gather, _declare = gather, declare


def declares() -> bool:
    """Whether worlds of this process are declared."""
    return _declare is not None


def gathered(identity: str, rank: int, size: int, seconds: float) -> Absent:
    """Wait for the members of a world that will be declared."""
    return ([], "") if _gather is None else _gather(identity, rank, size, seconds)


def declared(identity: str, rank: int, size: int) -> RankContext | None:
    """Declare a world; the context of this process from now on, `None` where the world is not seen."""
    use_store(None, 0, 0, "off")  # The groups of its former world are not of this one.
    store = None if _declare is None else _declare(identity, rank, size)
    return None if store is None else use_store(store, rank, size, strict=False)


def use_in_thread(context: RankContext | None) -> None:
    """Give the calling thread a context of its own, or take it back."""
    _own.context = context


def current_in_thread() -> RankContext | None:
    """The context of the calling thread alone."""
    return _own.context


def current() -> RankContext | None:
    """The context of the calling thread, else of its process; `None` where collectives are not looked at."""
    return _own.context or _process


def _forget() -> None:
    global _process, _gather, _declare
    _process = _gather = _declare = None
    _own.context = None


os.register_at_fork(after_in_child=_forget)
