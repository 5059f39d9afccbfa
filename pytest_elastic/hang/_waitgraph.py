"""The wait graph of a group, kept event by event: the waits that nothing can end any more.

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
3. A wait that may time out is as good as one that will be satisfied, and so is one of a process whose
   interval timer is set: its handler may do anything.  Every other timeout counts for nothing.
4. Whoever gave up at a barrier may call it again.

*Cost.*  Most events change a bit or two.  The fixpoint is computed only where a necessary condition of a
doomed wait holds, which is a few operations on bit masks: ranks that can go on without a look at barriers
and declarations; writers that are awaited; a look at each barrier that somebody waits at.  A wait is found
by its keys, and each of its keys is crossed out once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    CollectiveJoined,
    Event,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.hang._group_calls import GroupCalls
from pytest_elastic.hang._nodes import Barrier, Rank, Wait, grow
from pytest_elastic.store import LAST_MEMBER, NUM_MEMBERS, OPERATIONS, Effect, with_effect

_CREATES = frozenset(name for name, operation in OPERATIONS.items() if operation.creates)
_READS = frozenset(name for name, operation in OPERATIONS.items() if operation.reads)
_WRITES, _DELETES = with_effect(Effect.WRITE), with_effect(Effect.DELETE)
_MEETS, _PUSHES, _POPS, _LOOKS = map(with_effect, (Effect.MEET, Effect.PUSH, Effect.POP, Effect.PRESENCE))
_EXCHANGES = with_effect(Effect.EXCHANGE)
_NOBODY: dict[str, int] = {}
_MOST_DELETED = _MOST_DONE = 10_000


class WaitGraph:
    """The graph of one group's store.  Not thread-safe; nothing blocks.

    Attributes:
        ranks: by number; all are there, and able to run, from the start.
        doomed: the waits that nothing can end but their timeouts, in the order in which they began.
        deleted: for the last keys that were deleted and not written again, the rank that did it.
        stale: calls of a barrier that had been complete before: such a call synchronises nothing.
        calls: collectives and messages of process groups.
        outsiders: connections that belong to no rank.
        last: the moment of the last event; `done` are the last requests, and the waits that were served.
    """

    def __init__(self, world_size: int) -> None:
        self.ranks = [Rank(number, 1 << number) for number in range(world_size)]
        self.doomed: tuple[Wait, ...] = ()
        self.deleted: dict[str, int | None] = {}
        self.stale: list[BarrierJoined] = []
        self.calls = GroupCalls()
        self.outsiders: set[int] = set()
        self.last = 0.0
        self._all = (1 << world_size) - 1
        self._present = self._all  # Bits of the ranks that are in a phase; of those, the ones that run.
        self._running = self._all
        self._patient = 0  # Of those with a wait for a timeout which they count on.
        self._free = 0  # Of those with a wait that any rank may end.
        self._awaited = [0] * world_size  # How many declared keys are missing, by writer.
        self._owing = 0  # Bits of the writers among them.
        self._waiters: dict[str, dict[Wait, None]] = {}
        self._barriers: dict[str, Barrier] = {}  # By their last key; `_closed` are those with waiters.
        self._closed: dict[str, Barrier] = {}
        self._native: set[str] = set()  # Prefixes of barriers that the store itself releases.
        self.done: deque[StoreCalled | WaitBegan] = deque(maxlen=_MOST_DONE)
        self._can = self._all  # Bits of those that could go on when it was last looked at.
        self._takers: dict[type[Event], Callable[[Rank, Any], bool]] = {
            StoreCalled: self._called,
            WaitBegan: self._began_waiting,
            WaitEnded: self._ended_waiting,
            BarrierJoined: self._joined,
            CollectiveJoined: self._met,
            ClientLeft: self._left,
            PhaseBegan: self._began,
            PhaseEnded: self._ended,
            RankExited: self._exited,
            RankStood: self._stood,
        }

    def take(self, event: Event) -> bool:
        """Take an event up; whether it doomed a wait that was not doomed before."""
        take = self._takers.get(type(event))
        if take is None:
            return False
        self.last = event.at
        if event.rank is None:
            return self._told_of_outsider(event)
        return take(self.ranks[event.rank], event)

    @property
    def quiescent(self) -> bool:
        """Whether every rank in a phase waits, and there is one: only timeouts can change anything."""
        return not self._running and self._present != 0

    def waits(self) -> list[Wait]:
        """The waits of ranks that are in a phase, in the order in which they began."""
        waits = [wait for rank in self.ranks if not rank.gone for wait in rank.waits.values()]
        return sorted(waits, key=lambda wait: wait.event.at)

    def barrier(self, key: str) -> Barrier | None:
        """The barrier that this key releases, if it was called and is closed."""
        return self._barriers.get(key)

    def barriers(self) -> list[Barrier]:
        """The barriers at which a rank waits, in the order of their first waits."""
        return list(self._closed.values())

    def stuck(self, wait: Wait) -> list[str]:
        """The keys that no rank that can go on may write; not empty for a doomed wait."""
        return wait.stuck(self._can, self._barriers)

    def unread(self, key: str) -> bool:
        """Whether no rank read a deleted key after it was written; a barrier's is there for all to read."""
        deleted = False
        for event in reversed(self.done):
            if key not in event.keys:
                continue
            read = isinstance(event, WaitBegan) or event.name in _READS or not event.changed
            if not deleted:
                deleted = event.name in _DELETES and not read
            elif not read:
                return True
            elif not key.endswith(LAST_MEMBER):
                return False
        return len(self.done) < _MOST_DONE

    # Events of the store.

    def _called(self, rank: Rank, event: StoreCalled) -> bool:
        # Who comes last to a barrier sets its last key besides: it has come no further for that.
        rank.calls += event.name not in _WRITES or not event.keys[0].endswith(LAST_MEMBER)
        self.done.append(event)
        opened = self._heard(rank, event.client)
        if event.name not in _READS:
            opened |= self._changed(event)
        return opened and bool(self.doomed) and self._judge()

    def _changed(self, event: StoreCalled) -> bool:
        """An operation that may change keys; whether somebody waited for them."""
        name, opened = event.name, False
        if event.changed and name in _CREATES:
            for key in event.keys:
                if self.deleted:
                    self.deleted.pop(key, None)
                if key in self._waiters:
                    self._wrote(key, name in _PUSHES)
                    opened = True
                elif key in self._barriers:
                    del self._barriers[key]
        elif name in _DELETES and event.changed:
            opened = self._deleted_key(event.keys[0], event.rank)
        elif name in _MEETS:
            self._native.add(event.keys[0])
        return opened

    def _began_waiting(self, rank: Rank, event: WaitBegan) -> bool:
        self._heard(rank, event.client)
        missing = event.missing
        writers = dict(zip(event.keys, event.writers, strict=True)) if event.writers else _NOBODY
        alarmed = event.alarm > 0
        lacks = dict.fromkeys(missing)
        wait = Wait(event, rank.number, event.client, writers, lacks, not writers, alarmed)
        waiters = self._waiters
        if event.name in _EXCHANGES:
            self._open_call(wait)
        for key in missing:
            if key in waiters:
                waiters[key][wait] = None
            else:
                waiters[key] = {wait: None}
            if key in self._barriers:
                self._closed[key] = self._barriers[key]
                wait.free = False
            if writers:
                self._awaited[writers[key]] += 1
                self._owing |= 1 << writers[key]
        rank.waits[event.client] = wait
        if len(rank.clients) == 1 and not (rank.unseen or wait.patient or rank.gone):
            self._running &= ~rank.bit  # What `_weigh` would find.
            if wait.free:
                self._free |= rank.bit
        else:
            self._weigh(rank)
        return (bool(self.doomed) or self._can_be_doomed()) and self._judge()

    def _ended_waiting(self, rank: Rank, event: WaitEnded) -> bool:
        wait = rank.waits.get(event.client)
        if wait is None and event.how == "done":
            return False  # It was released by the write.
        if wait is not None:
            if event.how in ("timed out", "jumped"):
                self._give_up(wait)
            if event.how == "timed out":
                self.calls.lapse(wait, len(self.ranks))
            self._release(wait)
        if event.how == "gone":
            rank.clients.discard(event.client)
        self._weigh(rank)
        return self._judge()

    def _joined(self, rank: Rank, event: BarrierJoined) -> bool:
        last = event.prefix + LAST_MEMBER
        if event.world_size > 0:
            rank.barriers += 1
            if event.count > event.world_size:
                self.stale.append(event)
                return False
        barrier = self._barriers.get(last)
        if barrier is None or event.count <= barrier.count:
            barrier = self._new_barrier(last, event)
        if barrier.joined & rank.bit and event.world_size > 0:
            self.stale.append(event)
        barrier.count = event.count
        barrier.joined |= rank.bit
        barrier.left &= ~rank.bit
        if event.world_size != barrier.world_size:
            barrier.declared, barrier.world_size = False, max(event.world_size, barrier.world_size)
        if event.count == event.world_size:
            barrier.releaser = rank.number
            if event.prefix in self._native:
                self._wrote(last, queue=False)
        return (bool(self.doomed) or last in self._waiters) and self._judge()

    def _met(self, rank: Rank, event: CollectiveJoined) -> bool:
        rank.collectives += 1
        self.calls.join(event)
        return bool(self.doomed) and self._judge()

    def _open_call(self, wait: Wait) -> None:
        """A wait for members of a group call; where nobody knows yet who these are, any rank may be one."""
        call = wait.call = self.calls.of(wait.missing[0])
        if call is not None and not call.members:
            barrier = call.open_barrier(len(wait.event.keys) + 1, len(self.ranks))
            self._barriers.update(dict.fromkeys(wait.missing, barrier))

    def _left(self, rank: Rank, event: ClientLeft) -> bool:
        rank.clients.discard(event.client)
        self._weigh(rank)
        return self._judge()

    def _told_of_outsider(self, event: Event) -> bool:
        """A connection that is no rank's did something."""
        if isinstance(event, StoreCalled):
            self.outsiders.add(event.client)
            self.done.append(event)
            return self._changed(event) and bool(self.doomed) and self._judge()
        if isinstance(event, ClientLeft) or (isinstance(event, WaitEnded) and event.how == "gone"):
            self.outsiders.discard(event.client)
        return False

    # Events of ranks.

    def _began(self, rank: Rank, event: PhaseBegan) -> bool:
        rank.ended, rank.phased = None, True
        rank.unseen = bool(rank.clients) and len(rank.waits) == len(rank.clients)
        self._weigh(rank)
        return self._judge()

    def _ended(self, rank: Rank, event: PhaseEnded) -> bool:
        rank.ended = event
        self.calls.end(event)
        self._weigh(rank)
        return self._judge()

    def _exited(self, rank: Rank, event: RankExited) -> bool:
        rank.exited = event
        for wait in list(rank.waits.values()):
            self._release(wait)
        self._weigh(rank)
        return self._judge()

    def _stood(self, rank: Rank, event: RankStood) -> bool:
        rank.stood = event
        return False

    def disarm(self, number: int) -> None:
        """The rank's interval timer has gone off, and its waits go on."""
        rank = self.ranks[number]
        for wait in rank.waits.values():
            wait.alarmed = False
        self._weigh(rank)
        self._judge()

    # Changes.

    def _heard(self, rank: Rank, client: int) -> bool:
        """A thread made a request; whether it is new, or was taken for blocked."""
        rank.stood = None
        if client in rank.clients and client not in rank.waits:
            return False
        rank.clients.add(client)
        rank.unseen = False
        if client in rank.waits:
            self._release(rank.waits[client])
        self._weigh(rank)
        return True

    def _wrote(self, key: str, queue: bool) -> None:
        """The key is there: cross it out where that counts."""
        if not queue:
            self._barriers.pop(key, None)
        kept: dict[Wait, None] = {}
        running = 0
        for wait in self._waiters.pop(key, ()):
            name = wait.event.name
            if name in _POPS or (queue and name not in _LOOKS):
                kept[wait] = None
                continue
            if wait.writers:
                self._paid(wait.writers[key])
            self.done.append(wait.event)
            if len(wait.lacks) > 1:
                del wait.lacks[key]
            else:
                rank = self.ranks[wait.rank]
                del rank.waits[wait.client]
                if rank.runs:
                    running |= rank.bit
                else:  # Interrupted in this wait, and in another one since.
                    self._weigh(rank)
        self._running |= running
        self._free &= ~running
        self._patient &= ~running
        if kept:
            self._waiters[key] = kept
        else:
            self._closed.pop(key, None)

    def _deleted_key(self, key: str, by: int | None) -> bool:
        """Whether it was a counter that opens a barrier to all, since it counts from 1 again."""
        self.deleted[key] = by
        if len(self.deleted) > _MOST_DELETED:
            del self.deleted[next(iter(self.deleted))]
        if not key.endswith(NUM_MEMBERS):
            return False
        last = key.removesuffix(NUM_MEMBERS) + LAST_MEMBER
        self._barriers.pop(last, None)
        return self._closed.pop(last, None) is not None

    def _new_barrier(self, last: str, event: BarrierJoined) -> Barrier:
        """One that is called for the first time since its counter began."""
        declared = 0 < event.world_size <= len(self.ranks)
        barrier = self._barriers[last] = Barrier(event.prefix, event.world_size, declared)
        if last in self._waiters:
            self._close(last, barrier)
        return barrier

    def _close(self, last: str, barrier: Barrier) -> None:
        """A barrier whose last key was waited for before anybody called it."""
        self._closed[last] = barrier
        for wait in self._waiters[last]:
            wait.free = False
            self._weigh(self.ranks[wait.rank])

    def _paid(self, writer: int) -> None:
        """A declared key less is missing."""
        self._awaited[writer] -= 1
        if not self._awaited[writer]:
            self._owing &= ~(1 << writer)

    def _release(self, wait: Wait) -> None:
        """It waits no more."""
        for key in wait.lacks:
            there = self._waiters[key]
            del there[wait]
            if not there:
                del self._waiters[key]
                self._closed.pop(key, None)
            if wait.writers:
                self._paid(wait.writers[key])
        del self.ranks[wait.rank].waits[wait.client]

    def _give_up(self, wait: Wait) -> None:
        for barrier in map(self._barriers.get, wait.lacks):
            if barrier is not None:
                barrier.left |= barrier.joined & 1 << wait.rank

    def _weigh(self, rank: Rank) -> None:
        """Set the rank's bits anew."""
        bit = rank.bit
        self._running &= ~bit
        self._patient &= ~bit
        self._free &= ~bit
        if rank.runs:
            self._running |= bit
        if rank.gone:
            self._present &= ~bit
            return
        self._present |= bit
        for wait in rank.waits.values():
            if wait.patient:
                self._patient |= bit
            elif wait.free:
                self._free |= bit

    # Verdicts.

    def _judge(self) -> bool:
        if not self._can_be_doomed():
            self.doomed = ()
            return False
        before = self.doomed
        waits = self.waits()
        self._can = grow(self._running | self._patient, waits, self._barriers)
        # Where a rank cannot go on, all its waits are stuck; where it can, one of several still may be.
        self.doomed = tuple(
            w for w in waits if not self._can >> w.rank & 1 or (not w.patient and self.stuck(w))
        )
        return not set(before).issuperset(self.doomed)

    def _can_be_doomed(self) -> bool:
        """What holds whenever a wait is doomed, and seldom otherwise."""
        able = self._running | self._patient
        if not able:
            return True
        able |= self._free
        if self._owing & ~able:
            return True
        for barrier in self._closed.values():  # Not `any`: a generator costs more than most looks need.
            if not barrier.may_open(able):
                return True
        return False
