"""What a verdict is about: the doomed waits, and the targets that they wait for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_elastic.hang._naming import collective_of
from pytest_elastic.hang._nodes import Barrier, Rank, Wait, ranks_of
from pytest_elastic.hang._waitgraph import WaitGraph


@dataclass(slots=True, eq=False)
class Target:
    """What cannot come: a key, a barrier, or a collective of the world, which is joined by writing its keys.

    Attributes:
        name: the key, or the prefix of what is joined.
        key: the first of its keys that somebody lacks.
        barrier: if it is one.
        joined: whether it is joined, rather than written.
        chosen: whether its writers are known, rather than just everybody.
        writers: bits of the ranks that may write what is missing, gone or not.
        waiting: the ranks that wait for it, ascending.
    """

    name: str
    key: str
    barrier: Barrier | None
    joined: bool
    chosen: bool
    writers: int = 0
    waiting: tuple[int, ...] = ()

    @property
    def absent(self) -> int:
        """Bits of those who have not joined it; all bits above the ranks may be set, too."""
        return self.writers if self.barrier is None else ~self.barrier.joined


class Case:
    """The doomed waits, and what blocks each.

    Attributes:
        stuck: for each wait the keys that cannot come.
        targets: what these keys belong to, in the order in which it was first waited for.
        gone: bits of the ranks that write nothing more; of these, `accidents` should still be there.
    """

    def __init__(self, graph: WaitGraph) -> None:
        self.graph = graph
        self.stuck = {wait: graph.stuck(wait) for wait in graph.doomed}
        self.gone = sum(rank.bit for rank in graph.ranks if rank.gone)
        self.accidents = sum(rank.bit for rank in self.ranks(self.gone) if rank.is_accident)
        self.targets: list[Target] = []
        known: dict[str, Target] = {}
        waiting: dict[Target, set[int]] = {}
        for wait, keys in self.stuck.items():
            for key in keys:
                target = known.get(key)
                if target is None:
                    target = known[key] = self._target(wait, key)
                    target.writers |= graph.writers(wait, key)
                waiting.setdefault(target, set()).add(wait.rank)
        for target, ranks in waiting.items():
            target.waiting = _sorted(ranks)

    def _target(self, wait: Wait, key: str) -> Target:
        barrier = None if key in wait.writers else self.graph.barrier(key)
        place = collective_of(key) if key in wait.writers else ""
        if barrier is not None:
            place = barrier.prefix
        for one in self.targets if place else ():
            if one.joined and one.name == place:
                return one
        self.targets.append(Target(place or key, key, barrier, bool(place), self.chosen(wait, key)))
        return self.targets[-1]

    def chosen(self, wait: Wait, key: str) -> bool:
        """Whether the key's writers are known, rather than just everybody."""
        barrier = self.graph.barrier(key)
        known = barrier is not None and (barrier.declared or barrier.releaser is not None)
        return key in wait.writers or known

    def ranks(self, bits: int) -> list[Rank]:
        """The ranks whose bits are set, ascending."""
        return [self.graph.ranks[number] for number in ranks_of(bits)]

    def exact(self) -> bool:
        """Whether all who might have ended the waits are known to be unable to."""
        if self.graph.outsiders:
            return False
        writers = 0
        for target in self.targets:
            writers |= target.writers
        return not any(map(_has_more_threads, self.ranks(writers)))


def _has_more_threads(rank: Rank) -> bool:
    if rank.exited is not None:
        return False
    return rank.extra_threads > 0 or (rank.ended is not None and len(rank.clients) > 1)


def _sorted(ranks: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(ranks)))
