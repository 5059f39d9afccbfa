"""Who waits for whom, kept event by event: the waits that nothing can end any more.

*Theory of operation.*  A thread of a rank is either blocked in the store or able to do anything.  A wait is
an AND over its missing keys; a key is an OR over those who may write it:

* the one rank that the caller declared (`WaitBegan.writers`);
* for the last key of a barrier of ours, the absent members, and all of them must come; once the count is
  full, the rank that came last and is about to release the others;
* otherwise every rank.

"Can go on" is the least fixpoint: ranks with a thread that runs can, and so can those with a wait whose
missing keys all have writers that can.  A wait outside of it is *doomed*, from the very event on that closed
it, whoever still computes elsewhere.

*Rules.*
1. Who has ended its phase, or exited, writes nothing more.  Whoever is stopped, slow, or was never heard of
   can still do anything: a straggler is never accused.
2. A rank whose wait was just satisfied runs: its answer is on the way.
3. A wait that may time out is as good as one that will be satisfied.  Every other timeout counts for nothing.
4. Whoever gave up at a barrier may call it again.

*Cost.*  Most events change a bit or two.  The fixpoint is computed only where a necessary condition of a
doomed wait holds, which is a few operations on bit masks: ranks that can go on without a look at barriers
and declarations; writers that are awaited; a look at each barrier that somebody waits at.  A wait is found
by its keys, and each of its keys is crossed out once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    Event,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.hang._nodes import LAST_MEMBER, Barrier, Rank, Wait

_WRITES = frozenset({"set", "add", "compare_set", "append", "multi_set", "queue_push", "arrive"})


class WaitGraph:
    """The graph of one group's store.  Not thread-safe; nothing blocks.

    Attributes:
        ranks: by number; all are there, and able to run, from the start.
        doomed: the waits that nothing can end but their timeouts, in the order in which they began.
        deleted: for keys that were deleted and not written again, the rank that did it.
        stale: calls of a barrier that had been complete before: such a call synchronises nothing.
        outsiders: connections that belong to no rank.
        last: the moment of the last event.
    """

    def __init__(self, world_size: int) -> None:
        self.ranks = [Rank(number) for number in range(world_size)]
        self.doomed: tuple[Wait, ...] = ()
        self.deleted: dict[str, int | None] = {}
        self.stale: list[BarrierJoined] = []
        self.outsiders: set[int] = set()
        self.last = 0.0
        self._all = (1 << world_size) - 1
        self._able = self._all  # Bits of the ranks that run, or that wait for a timeout which they count on.
        self._free = 0  # Of those with a wait that any rank may end.
        self._awaited = [0] * world_size  # How many declared keys are missing, by writer.
        self._owing = 0  # Bits of the writers among them.
        self._waiters: dict[str, dict[Wait, None]] = {}
        self._barriers: dict[str, Barrier] = {}  # By their last key; `_closed` are those with waiters.
        self._closed: dict[str, Barrier] = {}
        self._can = self._all  # Bits of those that could go on when it was last looked at.
        self._takers: dict[type[Event], Callable[[Any], bool]] = {
            StoreCalled: self._called,
            WaitBegan: self._began_waiting,
            WaitEnded: self._ended_waiting,
            BarrierJoined: self._joined,
            ClientLeft: self._left,
            PhaseBegan: self._began,
            PhaseEnded: self._ended,
            RankExited: self._exited,
            RankStood: self._stood,
        }

    def take(self, event: Event) -> bool:
        """Note what happened; whether it doomed a wait that was not doomed before."""
        take = self._takers.get(type(event))
        if take is None:
            return False
        self.last = event.at
        return take(event)

    @property
    def quiescent(self) -> bool:
        """Whether every rank in a phase waits, and there is one: only timeouts can change anything."""
        present = [rank for rank in self.ranks if not rank.gone]
        return bool(present) and not any(rank.runs for rank in present)

    def waits(self) -> list[Wait]:
        """All of ranks that are in a phase, in the order in which they began."""
        waits = [wait for rank in self.ranks if not rank.gone for wait in rank.waits.values()]
        return sorted(waits, key=lambda wait: wait.since)

    def barrier(self, key: str) -> Barrier | None:
        """The barrier that this key releases, if somebody has called it and it is closed."""
        return self._barriers.get(key)

    def barriers(self) -> list[Barrier]:
        """Those at which somebody waits, in the order in which the first one did."""
        return list(self._closed.values())

    def stuck(self, wait: Wait) -> tuple[str, ...]:
        """The keys that nobody who can go on may write; not empty for a doomed wait."""
        return tuple(key for key in wait.missing if not self._can_come(wait, key, self._can))

    def writers(self, wait: Wait, key: str) -> int:
        """Bits of the ranks that may write a missing key, gone or not."""
        if key in wait.writers:
            return 1 << wait.writers[key]
        barrier = self._barriers.get(key)
        if barrier is not None and barrier.releaser is not None:
            return 1 << barrier.releaser
        if barrier is not None and barrier.declared:
            return self._all & (~barrier.joined | barrier.left)
        return self._all

    # Events of the store.

    def _called(self, event: StoreCalled) -> bool:
        opened = self._heard(event.rank, event.client)
        if event.rank is not None:
            self.ranks[event.rank].calls += 1
        if event.changed and event.name in _WRITES:
            for key in event.keys:
                if self.deleted and key in self.deleted:
                    del self.deleted[key]
                if key in self._waiters:
                    self._wrote(key, event.name == "queue_push")
                    opened = True
                elif key in self._barriers:
                    del self._barriers[key]
        elif event.name == "delete_key" and event.changed:
            self._deleted_key(event.keys[0], event.rank)
        return opened and bool(self.doomed) and self._judge()

    def _began_waiting(self, event: WaitBegan) -> bool:
        self._heard(event.rank, event.client)
        if event.rank is None:
            return False
        writers = dict(zip(event.keys, event.writers, strict=True)) if event.writers else {}
        wait = Wait(
            event.rank, event.client, event.name, event.keys, dict.fromkeys(event.missing),
            event.at, event.timeout, event.may_timeout, writers,
        )  # fmt: skip
        for key in event.missing:
            self._waiters.setdefault(key, {})[wait] = None
            if key in self._barriers:
                self._closed[key] = self._barriers[key]
            if key in writers:
                self._awaited[writers[key]] += 1
                self._owing |= 1 << writers[key]
        rank = self.ranks[event.rank]
        rank.waits[event.client] = wait
        self._weigh(rank)
        return self._judge()

    def _ended_waiting(self, event: WaitEnded) -> bool:
        if event.rank is None:
            return False
        rank = self.ranks[event.rank]
        wait = rank.waits.get(event.client)
        if wait is not None:
            if event.how in ("timed out", "jumped"):
                self._give_up(wait)
            self._release(wait)
        if event.how == "gone":
            rank.clients.discard(event.client)
        self._weigh(rank)
        return self._judge() if self.doomed or event.how == "gone" else False

    def _joined(self, event: BarrierJoined) -> bool:
        self._heard(event.rank, event.client)
        if event.rank is None:
            return False
        self.ranks[event.rank].barriers += 1
        if 0 < event.world_size < event.count:
            self.stale.append(event)
            return False
        last = event.prefix + LAST_MEMBER
        barrier = self._barriers.get(last)
        if barrier is None or event.count <= barrier.count:
            declared = 0 < event.world_size <= len(self.ranks)
            barrier = self._barriers[last] = Barrier(event.prefix, event.world_size, declared)
            if last in self._waiters:
                self._close(last, barrier)
        if barrier.joined >> event.rank & 1:
            self.stale.append(event)
        barrier.count = event.count
        barrier.order.append(event.rank)
        barrier.joined |= 1 << event.rank
        barrier.left &= ~(1 << event.rank)
        if event.count == event.world_size:
            barrier.releaser = event.rank
        return (bool(self.doomed) or last in self._waiters) and self._judge()

    def _left(self, event: ClientLeft) -> bool:
        if event.rank is None:
            self.outsiders.discard(event.client)
            return False
        rank = self.ranks[event.rank]
        rank.clients.discard(event.client)
        self._weigh(rank)
        return self._judge()

    # Events of ranks.

    def _began(self, event: PhaseBegan) -> bool:
        if event.rank is None:
            return False
        rank = self.ranks[event.rank]
        rank.ended, rank.phased = None, True
        self._weigh(rank)
        return bool(self.doomed) and self._judge()

    def _ended(self, event: PhaseEnded) -> bool:
        if event.rank is None:
            return False
        rank = self.ranks[event.rank]
        rank.ended = event
        self._weigh(rank)
        return self._judge()

    def _exited(self, event: RankExited) -> bool:
        if event.rank is None:
            return False
        rank = self.ranks[event.rank]
        rank.exited = event
        for wait in list(rank.waits.values()):
            self._release(wait)
        self._weigh(rank)
        return self._judge()

    def _stood(self, event: RankStood) -> bool:
        if event.rank is not None:
            self.ranks[event.rank].stood = event
        return False

    # Changes.

    def _heard(self, number: int | None, client: int) -> bool:
        """A thread made a request; whether it is new, or was taken for blocked."""
        if number is None:
            self.outsiders.add(client)
            return False
        rank = self.ranks[number]
        rank.stood = None
        if client in rank.clients and client not in rank.waits:
            return False
        rank.clients.add(client)
        if client in rank.waits:
            self._release(rank.waits[client])
        self._weigh(rank)
        return True

    def _wrote(self, key: str, queue: bool) -> None:
        """The key is there: cross it out where that counts."""
        for wait in list(self._waiters[key]):
            if wait.name == "wait" if queue else wait.name != "queue_pop":
                self._cross_out(wait, key)
                if not wait.missing:
                    self._release(wait)
                    self._weigh(self.ranks[wait.rank])
        if not queue:
            self._barriers.pop(key, None)

    def _deleted_key(self, key: str, by: int | None) -> None:
        self.deleted[key] = by
        if key.endswith("/num_members"):  # The barrier counts from 1 again.
            last = key.removesuffix("/num_members") + LAST_MEMBER
            self._barriers.pop(last, None)
            self._closed.pop(last, None)

    def _close(self, last: str, barrier: Barrier) -> None:
        """A barrier whose last key was waited for before anybody called it."""
        self._closed[last] = barrier
        for wait in self._waiters[last]:
            self._weigh(self.ranks[wait.rank])

    def _cross_out(self, wait: Wait, key: str) -> None:
        del wait.missing[key]
        there = self._waiters[key]
        del there[wait]
        if not there:
            del self._waiters[key]
            self._closed.pop(key, None)
        if key in wait.writers:
            writer = wait.writers[key]
            self._awaited[writer] -= 1
            if not self._awaited[writer]:
                self._owing &= ~(1 << writer)

    def _release(self, wait: Wait) -> None:
        """It waits no more."""
        for key in list(wait.missing):
            self._cross_out(wait, key)
        waits = self.ranks[wait.rank].waits
        if waits.get(wait.client) is wait:
            del waits[wait.client]

    def _give_up(self, wait: Wait) -> None:
        for key in wait.missing:
            if key in self._barriers:
                self._barriers[key].left |= self._barriers[key].joined & 1 << wait.rank

    def _weigh(self, rank: Rank) -> None:
        """Set the rank's bits anew."""
        bit = 1 << rank.number
        self._able &= ~bit
        self._free &= ~bit
        if rank.runs:
            self._able |= bit
        elif not rank.gone:
            for wait in rank.waits.values():
                if wait.may_timeout:
                    self._able |= bit
                elif not wait.writers and not any(key in self._barriers for key in wait.missing):
                    self._free |= bit

    # Verdicts.

    def _judge(self) -> bool:
        if not self._can_be_doomed():
            self.doomed = ()
            return False
        before = self.doomed
        self._can = self._fixpoint()
        self.doomed = tuple(w for w in self.waits() if not w.may_timeout and self.stuck(w))
        return any(wait not in before for wait in self.doomed)

    def _can_be_doomed(self) -> bool:
        """What holds whenever a wait is doomed, and seldom otherwise."""
        able = self._able
        if not able:
            return True
        able |= self._free
        if self._owing & ~able:
            return True
        return any(not barrier.may_open(able) for barrier in self._closed.values())

    def _fixpoint(self) -> int:
        """Bits of the ranks that can go on."""
        able = self._able
        waits = [wait for wait in self.waits() if not able >> wait.rank & 1]
        while True:
            ending = [wait for wait in waits if self._can_end(wait, able)]
            if not ending:
                return able
            for wait in ending:
                able |= 1 << wait.rank
            waits = [wait for wait in waits if not able >> wait.rank & 1]

    def _can_end(self, wait: Wait, able: int) -> bool:
        """Whether the ranks with these bits can write all that it lacks."""
        return all(self._can_come(wait, key, able) for key in wait.missing)

    def _can_come(self, wait: Wait, key: str, able: int) -> bool:
        if key in wait.writers:
            return bool(able >> wait.writers[key] & 1)
        barrier = self._barriers.get(key)
        return bool(able) if barrier is None else barrier.may_open(able)
