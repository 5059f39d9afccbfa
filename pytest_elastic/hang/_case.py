"""The doomed waits of a verdict: their targets, the waits that block each other, and circles of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_elastic.hang._group_calls import GroupCall
from pytest_elastic.hang._naming import collective_of, key_name
from pytest_elastic.hang._nodes import Barrier, Rank, Wait, bits_of
from pytest_elastic.hang._waitgraph import WaitGraph
from pytest_elastic.store import LAST_MEMBER


@dataclass(slots=True, eq=False)
class Target:
    """A key, barrier or collective that cannot come; ranks join a collective by writing its keys.

    Attributes:
        name: the key, or the prefix of the barrier or collective.
        key: the first of its keys that somebody lacks.
        barrier: `None` for a key or a collective.
        joined: whether ranks join it; else they write it.
        chosen: whether its writers are known; else any rank may write it.
        writers: bits of the ranks that may write the missing keys, gone or not.
        waiting: the ranks that wait for it, ascending.
        call: the call of a process group that it is; `None` for anything else.
    """

    name: str
    key: str
    barrier: Barrier | None
    joined: bool
    chosen: bool
    writers: int = 0
    waiting: tuple[int, ...] = ()
    call: GroupCall | None = None

    @property
    def absent(self) -> int:
        """Bits of the ranks that have not joined it; bits above the ranks may be set, too."""
        return self.writers if self.barrier is None else ~self.barrier.joined

    def lacks(self, other: Target) -> bool:
        """Whether a rank that waits for the other one has not joined this one."""
        return any(self.absent >> rank & 1 for rank in other.waiting)

    @property
    def end(self) -> str:
        """The verb for the end of its waits: a barrier is released, a key is written, a call is joined."""
        if self.call is not None:
            return "join"
        return "release" if self.key.endswith(LAST_MEMBER) else "write"

    @property
    def text(self) -> str:
        """Its name; for a barrier of another size than the group's also how many came."""
        barrier = self.barrier
        if self.call is not None:
            return self.call.title
        if barrier is None or barrier.declared or not barrier.world_size:
            return key_name(self.key)
        return f"{key_name(self.key)} ({barrier.count} of {barrier.world_size} expected came)"


class Case:
    """The doomed waits of a graph, and their targets.

    Attributes:
        stuck: for each wait the keys that cannot come.
        targets: of these keys, in the order in which they were first waited for.
        gone: bits of the ranks that write nothing more; `accidents` are those that failed or died.
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
                    target.writers |= self.writers(wait, key)
                waiting.setdefault(target, set()).add(wait.rank)
        for target, ranks in waiting.items():
            target.waiting = tuple(sorted(ranks))

    def _target(self, wait: Wait, key: str) -> Target:
        barrier = None if key in wait.writers else self.graph.barrier(key)
        place = collective_of(key) if key in wait.writers else ""
        if wait.call is not None:
            place = wait.call.name
        elif barrier is not None:
            place = barrier.prefix
        for one in self.targets if place else ():
            if one.joined and one.name == place:
                return one
        found = Target(place or key, key, barrier, bool(place), self.chosen(wait, key), call=wait.call)
        self.targets.append(found)
        return found

    def writers(self, wait: Wait, key: str) -> int:
        """Bits of the ranks that may write a missing key, gone or not."""
        if key in wait.writers:
            return 1 << wait.writers[key]
        everyone, barrier = (1 << len(self.graph.ranks)) - 1, self.graph.barrier(key)
        if barrier is not None and barrier.releaser is not None:
            return 1 << barrier.releaser
        if barrier is not None and barrier.declared:
            return everyone & (~barrier.joined | barrier.left)
        return everyone

    def chosen(self, wait: Wait, key: str) -> bool:
        """Whether the key's writers are known; else any rank may write it."""
        barrier = self.graph.barrier(key)
        known = barrier is not None and (barrier.declared or barrier.releaser is not None)
        return key in wait.writers or known

    def ranks(self, bits: int) -> list[Rank]:
        """The ranks whose bits are set, ascending."""
        return [self.graph.ranks[number] for number in bits_of(bits)]

    def exact(self) -> bool:
        """Whether every thread that might have ended the waits is known to be unable to."""
        if self.graph.outsiders:
            return False
        writers = 0
        for target in self.targets:
            writers |= target.writers
        return not any(rank.has_more_threads for rank in self.ranks(writers))

    def circle(self, guess: bool) -> list[Wait]:
        """Waits that block each other, by rank; empty if there are none.

        Args:
            guess: whether a key that any rank may write counts as each rank's.
        """
        waits, ahead = list(self.stuck), self._blocking(guess)
        for number, blocking in enumerate(ahead):
            reached = reachable(ahead, blocking)
            if reached >> number & 1:
                found = [waits[one] for one in bits_of(reaching(ahead, reached, number))]
                return sorted(found, key=lambda wait: (wait.rank, wait.client))
        return []

    def _blocking(self, guess: bool) -> list[int]:
        """For each wait (bits of) the waits whose ranks would have to go on for it to end.

        Whoever waits for a key itself is not guessed to be its writer.
        """
        of_rank: dict[int, int] = {}
        of_key: dict[str, int] = {}
        for number, (wait, keys) in enumerate(self.stuck.items()):
            of_rank[wait.rank] = of_rank.get(wait.rank, 0) | 1 << number
            for key in keys:
                of_key[key] = of_key.get(key, 0) | 1 << number
        everyone = (1 << len(self.stuck)) - 1
        ahead = []
        for number, (wait, keys) in enumerate(self.stuck.items()):
            known, alike, guessed = 0, everyone, False
            for key in keys:
                if self.chosen(wait, key):
                    known |= self.writers(wait, key)
                elif guess:
                    alike, guessed = alike & of_key[key], True
            blocking = sum(of_rank.get(rank, 0) for rank in bits_of(known))
            if guessed:
                blocking |= everyone & ~alike
            ahead.append(blocking & ~(1 << number))
        return ahead


def reachable(ahead: Sequence[int], start: int) -> int:
    """Bits of the nodes that can be reached from `start`, and of these; `ahead`: edges, by node."""
    seen = 0
    while start:
        seen |= start
        found = 0
        for number in bits_of(start):
            found |= ahead[number]
        start = found & ~seen
    return seen


def reaching(ahead: Sequence[int], nodes: int, target: int) -> int:
    """Bits of those of `nodes` from which the target can be reached, and of the target."""
    seen, before = 1 << target, 0
    while seen != before:
        before = seen
        for number in reversed(bits_of(nodes & ~seen)):
            if ahead[number] & seen:
                seen |= 1 << number
    return seen
