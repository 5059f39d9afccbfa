"""Hang detector: names a hang at the event that made it, and lets the time pass that would only be waited.

*Theory of operation.*  One detector per group, in the group's loop.  The store tells it of requests and
waits, the group of phases and exits.  All of it goes into a wait graph (`hang`).  When the graph has waits
that nothing can end, the loop first serves what has arrived meanwhile (`settle`); if they still are there, it
is a verdict, with no timer involved:

* *exact* if nobody but the ranks' waiting threads could have ended the waits: one look at the kernel's
  tables shows that every other thread of those ranks is parked and that they have no children.  Where there
  are others, the rank is asked (`store/_inspection.py`), and those that it knows to be harmless do not count;
* else *suspected*, and said only after a second in which no rank made a request, and nothing that may write
  (a thread whose code can reach the store; a child, where a signal has a handler) used the processor or was
  in anything that might end by itself.  A thread that sleeps and then writes the key is never taken for hung,
  however long it sleeps.

A process with an interval timer that is set will run that signal's handler, which may do anything: its waits
are no hang before that, and no time is let pass.

Where the launcher itself or somebody from outside may write the store there is no verdict at all: while a
test holds the group in its hands (`Elastic.start`) and does not wait for its end, or has made a store of its
own.

When every rank waits, the clock jumps: the stacks are taken, while the store goes on, then the wait with the
earliest deadline fails as if its time had passed, in the code under test and at its own line.  What that rank
does then may let others go on; if not, the next one follows.  A wait that may time out jumps too, but is no
hang.  A timer (`expires`) that would end a rank sooner than that is waited for.

A rank that begins the same wait again polls, and looks perhaps at a clock that does not jump: its waits end
at once from then on, and nobody else's time passes by them.  When that has gone on for five seconds, and the
verdict stands, the test is over (`endless`).

*Rules.*
1. Told first, done after: the launcher tells that a phase begins before it gives the order.
2. What ranks do because another one failed of a hang is its consequence, and no second verdict.
3. A rank has failed of a hang if its failure is a time-out of the store, or came of one (`_timeouts`), and
   the last time-out that it had was of a wait in the verdict; whatever it did between, to clean up.
4. A rank whose doomed wait is over has dealt with it if it passes, fails of something else, is served in
   another wait, or is found elsewhere when time is over.  The verdict is then void, and those whose waits are
   still doomed are judged anew.  It holds again if such a rank fails of it after all.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import (
    CollectiveJoined,
    Event,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankInspected,
    RankStarted,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
    is_failure,
)
from pytest_elastic.hang import (
    Diagnosis,
    Stack,
    StalePrefix,
    Wait,
    WaitGraph,
    diagnose,
    diagnose_outside,
    find_stale,
    review,
)
from pytest_elastic.launch._parking import AGAIN, Parking
from pytest_elastic.launch._polls import Polls
from pytest_elastic.launch._process_state import CONFIRM, Companies
from pytest_elastic.launch._process_state import Watched as Processes
from pytest_elastic.loop import Loop
from pytest_elastic.store import is_trace

_log = logging.getLogger(__name__)

_MOST_EVENTS = 65_536
_OF_RANKS = frozenset({RankStarted, PhaseBegan, PhaseEnded, RankExited})
_SOON = 0.02  # Seconds at least between two looks at a group.


class Watched(Processes, Protocol):
    """What a hang detector needs of its group."""

    loop: Loop

    def next_timer(self) -> float:
        """When the first timer of a rank expires, on the monotonic clock."""

    def dump_stacks(self, ranks: Sequence[int], done: Callable[[dict[int, list[Stack]]], object]) -> None:
        """Have these ranks write their stacks, and call `done` with them within half a second."""


@dataclass(frozen=True, slots=True)
class _Lapse:
    """When a wait of a verdict timed out, and what the verdict was."""

    at: float
    verdict: Diagnosis
    stacks: dict[int, list[Stack]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a hang detector knows.

    Attributes:
        diagnosis: the verdict; `None` while there is none.
        stacks: where the ranks stood when everybody waited.
        events: what happened, the last 65,536, oldest first.
        lost: how many events were before those.
        stale: a barrier that was called too often, whether or not anybody hung.
    """

    diagnosis: Diagnosis | None
    stacks: dict[int, list[Stack]]
    events: tuple[Event, ...]
    lost: int
    stale: StalePrefix | None


class HangDetector:
    """Looks out for hangs of one group.  All methods belong to the group's loop.

    Args:
        group: which.
        world_size: number of its ranks.
        clock: `"auto"`, or `"real"`: then nothing jumps.
        launcher_waits: whether the launcher does nothing but wait for the ranks.

    Attributes:
        events: what happened, the last 65,536.
        diagnosis: the verdict; `None` while there is none.
        stacks: where the ranks stood when everybody waited; `parking` are those that wait for threads.
    """

    def __init__(self, group: Watched, world_size: int, clock: str, launcher_waits: bool) -> None:
        self.clock, self._launcher_waits = clock, launcher_waits
        self._group, self._world_size, self._loop = group, world_size, group.loop
        self._alarm = group.loop.alarm(self._settle)
        self._launcher_writes = self._broken = self._closed = False
        self._companies = Companies(group)
        self.renew()

    def close(self) -> None:
        """Look no more, and let go of what is open for the next looks; idempotent."""
        self._closed = True
        self._companies.close()

    def renew(self) -> None:
        """Forget everything: the group has another store from now on."""
        self._graph = WaitGraph(self._world_size)
        self._waiting, self._present = 0, self._world_size
        self.begin(self.clock)

    def begin(self, clock: str) -> None:
        """Another test begins, with such a clock: forget what was found, and what happened."""
        self.clock = clock
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._count = 0
        self._known: set[Wait] = set()
        self._counted_on: set[int] = set()  # Clients in a wait that may time out.
        self._lapsed: dict[int, _Lapse] = {}  # Ranks whose last time-out was of a verdict's wait.
        self._failed = self._stacks_due = self._stacks_asked = False
        self._companies.close()
        self._companies = Companies(self._group)
        self._polls, self.parking = Polls(), Parking(self._group)
        self.diagnosis: Diagnosis | None = None
        self.stacks: dict[int, list[Stack]] = {}

    @property
    def lost(self) -> int:
        """How many events have been forgotten, before those in `events`."""
        return self._count - len(self.events)

    @property
    def endless(self) -> str:
        """In words, that a rank polls for what nobody can bring, or `outlasts`; `""` if none does."""
        return self._polls.endless or self.parking.endless

    def outlasts(self, limit: float) -> bool:
        """Whether it is `endless`, or ranks hang, and no time-out before this moment will change that."""
        return bool(self._polls.endless) or self.parking.outlasts(limit)

    @property
    def moves(self) -> bool:
        """Whether ranks that hang are on their way out, one after the other."""
        return self.clock == "auto" and self.diagnosis is not None

    def sink(self, event: Event) -> None:
        """What happened at the store."""
        if self._unless_broken(self._take, event):
            self._settle()

    def note(self, events: Iterable[Event]) -> None:
        """What happened to ranks, after what the store has noted by now."""
        self._group.server.tell()
        for event in events:
            self._unless_broken(self._take, event)
        self.catch_up()

    def _unless_broken(self, act: Callable[..., object], *arguments: object) -> object:
        """Do this.  A fault of ours costs the verdicts, and not the store."""
        try:
            return None if self._broken else act(*arguments)
        except Exception:
            self._broken = True
            _log.exception("hangs of these ranks will not be found")
            return None

    def launcher_writes(self) -> None:
        """The launcher has a store of its own: from now on it may end any wait."""
        self._launcher_writes = True

    def launcher_waits(self, waits: bool) -> None:
        """Whether all that the launcher does is to wait for the group's end."""
        self._launcher_waits = waits
        if waits:
            self._settle()

    def give_up(self, stood: Iterable[RankStood]) -> None:
        """The time is over: what could only be suspected, or what the kernel says, is the verdict now."""
        self.note(stood)
        self._forget_old()
        found = None if self._somebody_else_writes() else diagnose(self._graph)
        if self.diagnosis is None and found is not None:
            self.diagnosis = replace(found, exact=False)
        elif self.diagnosis is None:
            self.diagnosis = diagnose_outside(self._graph)

    def _forget_old(self) -> None:
        """Where all who hung have been elsewhere since long, it is not what they are late of."""
        doomed, late = self.diagnosis.doomed if self.diagnosis else (), SYSTEM_CLOCK.monotonic() - CONFIRM
        for rank in doomed:
            lapse = self._lapsed.get(rank)
            if self._graph.ranks[rank].waits or lapse is None or lapse.at > late:
                return
        if doomed:
            self._deal(doomed[0])

    def known(self, stacks: Mapping[int, Sequence[Stack]] | None = None) -> Known:
        """All that it knows by now, with what these stacks say of ranks that hang outside of the store."""
        self.catch_up()
        self.diagnosis = review(self._graph, self.diagnosis, stacks or {})
        return Known(self.diagnosis, self.stacks, tuple(self.events), self.lost, find_stale(self._graph))

    def outside(self) -> list[int]:
        """The ranks that are in a phase and do not wait in the store."""
        return [rank.number for rank in self._graph.ranks if rank.runs and not rank.gone]

    def _somebody_else_writes(self) -> bool:
        known = self._launcher_waits and not self._launcher_writes and not self._group.server.listens
        return self._broken or not known

    def catch_up(self) -> None:
        """Hear what the store has not told yet."""
        self._group.server.tell()
        if self._news() or self._is_still():
            self._settle()

    def _settle(self) -> None:
        self._loop.settle(self._look_if_whole)

    def _look_if_whole(self) -> None:
        self._group.server.tell()  # Of waits that have just timed out, too: who had one is at work again.
        self._unless_broken(self._look)

    def _take(self, event: Event) -> bool:
        """Whether somebody should look."""
        if isinstance(event, RankInspected):
            return self._take_inspection(event)
        self.events.append(event)
        self._count, self.parking.until = self._count + 1, 0.0
        self._graph.take(event)
        kind = type(event)
        self._companies.forget(event.rank)  # It stands somewhere else now.
        if isinstance(event, WaitBegan):
            self._waiting += 1
            if event.may_timeout:
                self._counted_on.add(event.client)
            self._polls.begin(event)
            self._companies.arm(event.rank, event.at, event.alarm)
        elif isinstance(event, WaitEnded):
            self._waiting -= 1
            self._polls.end(event)
            self._end_wait(event)
        elif kind is PhaseBegan:
            self._polls, self.parking = Polls(), Parking(self._group)
        elif kind is CollectiveJoined and self.diagnosis is None and self._graph.calls.mismatch is not None:
            found = diagnose(self._graph)  # Its callers wait no more: there is nothing to confirm.
            self.diagnosis = found and replace(found, elapsed=SYSTEM_CLOCK.monotonic() - event.at)
        if kind in _OF_RANKS:
            self._count_present()
            if isinstance(event, PhaseEnded | RankExited):
                self._end_rank(event)
        return self._news() or self._is_still()

    def _count_present(self) -> None:
        """With every rank there, nothing is lost before all of them wait: that is when to be told."""
        self._present = sum(not rank.gone for rank in self._graph.ranks)
        self._group.server.tell_when(self._present if self._present == self._world_size else 0)

    def _take_inspection(self, event: RankInspected) -> bool:
        """What a rank says of its process holds until it does something."""
        assert event.rank is not None
        self._companies.learn(event)
        if not event.alarm:
            self._graph.disarm(event.rank)
        return self._news() or self._is_still()

    def _end_wait(self, event: WaitEnded) -> None:
        may_timeout = event.client in self._counted_on
        self._counted_on.discard(event.client)
        rank = event.rank
        if self.diagnosis is None and not self._lapsed:
            return
        if may_timeout or rank is None or event.how == "gone":
            return
        mine = {wait for wait in self._known if wait.client == event.client}
        self._known -= mine
        if event.how != "done" and mine and self.diagnosis is not None and rank in self.diagnosis.doomed:
            self._lapsed[rank] = _Lapse(event.at, self.diagnosis, self.stacks)
            return
        if event.how != "done":
            self._lapsed.pop(rank, None)
        self._deal(rank)

    def _deal(self, rank: int) -> None:
        """A rank has no trouble any more with the wait that hung: the next hang is another one."""
        if self.diagnosis is not None and rank in self.diagnosis.doomed and not self._failed:
            self.diagnosis, self.stacks = None, {}
            self._known.clear()

    def went_on(self, rank: int) -> None:
        """It has passed, or failed of something else than a wait."""
        self._lapsed.pop(rank, None)
        self._graph.calls.deal(self._graph.ranks[rank])
        self._deal(rank)

    def _end_rank(self, event: PhaseEnded | RankExited) -> None:
        rank = event.rank
        if rank is None:
            return
        if isinstance(event, RankExited):
            self._companies.dismiss(rank)
        if not is_failure(event):
            self.went_on(rank)
        elif rank in self._lapsed and not self._failed:
            lapse = self._lapsed[rank]
            self.diagnosis, self.stacks, self._failed = lapse.verdict, lapse.stacks, True
            self._known.update(self._graph.doomed)
        else:
            self._failed |= self.diagnosis is not None and rank in self.diagnosis.doomed

    def did_more(self, rank: int) -> bool:
        """Whether a rank made requests since its wait timed out, other than those of its own barrier."""
        since = self._lapsed[rank].at if rank in self._lapsed else math.inf
        calls = (one for one in self.events if type(one) is StoreCalled and one.rank == rank)
        return any(one.at > since and not is_trace(one.name, one.keys) for one in calls)

    def _is_still(self) -> bool:
        """Whether every rank waits; the first question is the cheap one."""
        return self._waiting >= self._present > 0 and self._graph.quiescent

    # When what has arrived is served.

    def _look(self) -> None:
        alone = not (self._closed or self._somebody_else_writes())
        found = self.diagnosis if alone and self.clock == "auto" else None
        if found is not None and found.exact and not self._graph.quiescent:
            self._alarm.at = SYSTEM_CLOCK.monotonic() + AGAIN
            if self.parking.look(self._graph, self.events, self._count, self._group.next_timer()):
                self._loop.recheck()
        still = self._is_still()
        if not alone or not (still or self._news()):
            self._companies.suspicion = None
            return
        if armed := (at := self._companies.next_alarm(self._graph)) < math.inf:
            self._alarm.at = max(SYSTEM_CLOCK.monotonic() + _SOON, at)
        age = SYSTEM_CLOCK.monotonic() - self._graph.last
        exact = self._companies.are_closed(self._graph, still, age)
        if not exact and not self._companies.are_confirmed(self._graph, self._count, age):
            self._alarm.at = SYSTEM_CLOCK.monotonic() + self._companies.next_look()
            return
        # Asked last: a thread that has just sent something, as a handler that makes its first call, was
        # seen to wait for the answer.
        if self._loop.has_arrived():
            self._settle()
            return
        self._find(exact)
        if not still or armed or self._stacks_asked:
            return
        if self._stacks_due:
            self._take_stacks()
        elif self.clock == "auto" and not self._polls.judge(self.diagnosis):
            leap = not self._polls.repeats
            self._group.server.jump(self._group.next_timer() - SYSTEM_CLOCK.monotonic(), leap)
        elif self._polls.endless:
            self._loop.recheck()

    def _news(self) -> bool:
        return not self._known.issuperset(self._graph.doomed)

    def _find(self, exact: bool) -> None:
        """Note the verdict, if there is one that was not known."""
        doomed = set(self._graph.doomed)
        if doomed <= self._known:
            return
        consequence = self.diagnosis is not None and (self._failed or not self.diagnosis.doomed)
        self._known |= doomed
        found = diagnose(self._graph)
        if found is None or consequence:
            return
        elapsed = SYSTEM_CLOCK.monotonic() - self._graph.last
        self.diagnosis = replace(found, exact=exact and found.exact, elapsed=elapsed)
        self._failed, self._stacks_due = False, True
        self._alarm.at = SYSTEM_CLOCK.monotonic() + _SOON  # For a first look of `Parking`.
        self._loop.recheck()

    def _take_stacks(self) -> None:
        pids = self._group.pids()
        ranks = [rank.number for rank in self._graph.ranks if not rank.gone and rank.number in pids]
        known = self.diagnosis
        self._stacks_due, self._stacks_asked = False, True

        def done(stacks: dict[int, list[Stack]]) -> None:
            self._stacks_asked = False
            if self.diagnosis is known:
                self.stacks = stacks
                if self._is_still():
                    self._complete()
            self._settle()

        # A stopped rank writes nothing before it is resumed, which is not ours to do.
        writing = [rank for rank in ranks if self._group.family(rank).state() != "T"]
        self._group.dump_stacks(writing, done)

    def _complete(self) -> None:
        """Tell the verdict by what the others did meanwhile: nobody runs any more."""
        if (found := diagnose(self._graph)) is not None and (known := self.diagnosis) is not None:
            self.diagnosis = replace(found, exact=known.exact and found.exact, elapsed=known.elapsed)
