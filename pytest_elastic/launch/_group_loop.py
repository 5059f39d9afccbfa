"""What lives in the loop of a group: its store, its channels, its timers, its guardian, its hang detector.

*Theory of operation.*  One thread serves them all (`loop.py`), so that nothing between them needs a lock, and
nothing waits for a launcher that computes, or that holds the group in its hands: timers expire, exits and
failures are noted, hangs are found.  `RankGroup` is the handle on it; nothing here refers to the handle, so
that a group that nobody holds any more is collected, and ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pytest_elastic import events
from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.hang import Stack
from pytest_elastic.launch._debugger import Borrow, Loans
from pytest_elastic.launch._group_plan import Answers, Plan
from pytest_elastic.launch._hang_detector import HangDetector
from pytest_elastic.launch._outcomes import of_timeout_in
from pytest_elastic.launch._rendezvous import CHANNEL, TIMERS, Place, Rendezvous, StorePlace
from pytest_elastic.launch._stacks import Done, RankStacks
from pytest_elastic.launch._timers import GroupTimers, describe_expiry
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing import Group, OutputTimes, RankChannels, RankExited
from pytest_elastic.pristine import os, signal, socket
from pytest_elastic.processes import Family
from pytest_elastic.report import PhaseReport, Raised
from pytest_elastic.store import Gate, StoreServer

_FAR = 3.0  # Seconds that guardians on other machines have to tell of the end of their ranks.
_COMPUTED = 2  # Hundredths of a second: of a second or more, on a busy machine, too.
_FETCHING = 0.1  # Seconds from one look at the files of other machines to the next.
_STOPPED = (-signal.SIGTERM, -signal.SIGKILL)  # Such an end is our doing, and says nothing of a hang.


class GroupLoop:
    """The part of a group that its loop drives.  All methods belong to the loop.

    Args:
        loop: not started yet.
        directories: of the ranks' files.
        plan: what the group shall be.
        launcher_waits: see `HangDetector`.

    Attributes:
        server: the group's store.
        channels: to the ranks.
        timers: what `expires` armed in the ranks.
        stacks: of the ranks.
        detector: finds out that ranks hang.
        output: when the ranks wrote what.
        control: of the guardian; `None` before the start.
        rendezvous: for ranks that connect by address; `None` where none do.
    """

    def __init__(
        self,
        loop: Loop,
        directories: Mapping[int, Path],
        plan: Plan,
        launcher_waits: bool,
    ) -> None:
        self.loop, self._directories, self._machines = loop, directories, plan.machines
        self.control: Group | None = None
        self.rendezvous: Rendezvous | None = None
        self.channels = RankChannels(directories, loop, self._heard)
        self.timers = GroupTimers(loop, self._expire)
        self.stacks = RankStacks(directories, loop, plan.machines)
        self.detector = HangDetector(self, len(directories), plan.clock, launcher_waits)
        streams = ((rank, stream) for rank in directories for stream in ("stdout", "stderr"))
        files = {(rank, stream): directories[rank] / f"{stream}.log" for rank, stream in streams}
        self.output = OutputTimes(loop, files, plan.spare)
        self._gate: Gate | None = None
        self._sentinels: dict[int, int] = {}
        self._closed = False
        self._ticks: dict[int, int] = {}  # At the last call of `ending`, by pid.
        self._fetching = loop.alarm(self._fetch)
        self.server = StoreServer(sink=self.detector.sink, loop=loop)
        loop.in_child(self._let_go)

    def take_over(self, control: Group) -> None:
        """The ranks are being started: note what becomes of them."""
        self.control = control
        control.on_exit = self._note_exit
        if self.rendezvous is not None:
            control.is_silent = self.channels.is_silent
        if self._machines.away:
            control.patience = _FAR
        self._fetch()

    def begin_test(self, clock: str) -> None:
        """Another test begins, with such a clock: forget what was found, what happened and was written."""
        self.detector.begin(clock)
        self.output.begin()

    def listen(self, host: str) -> dict[int, Place]:
        """Let ranks connect on this interface; where each one finds us."""
        here = self.rendezvous = Rendezvous(self.loop, host, CHANNEL + TIMERS, self._refusal, self._admit)
        return {
            rank: Place(here.address, here.token, self.store_place(rank, host)) for rank in self._directories
        }

    def store_place(self, rank: int, host: str) -> StorePlace:
        """Where a rank finds its store."""
        return StorePlace(*self.server.admit(rank, host))

    def renew_store(self) -> None:
        """Replace the store by a fresh one."""
        self.server.close()
        self.detector.renew()
        self.server = StoreServer(sink=self.detector.sink, gate=self._gate, loop=self.loop)

    def pass_to(self, gate: Gate | None) -> None:
        """Have the store, and those that follow it, ask this gate; `None` is nobody."""
        self._gate = gate
        self.server.pass_to(gate)

    def pids(self) -> dict[int, int]:
        """Rank -> process id."""
        return {} if self.control is None else self.control.pids

    def family(self, rank: int) -> Family:
        """The process of a rank that was started, and those below it."""
        return self._machines.of(rank).family(self.pids()[rank])

    def ending(self, ranks: Iterable[int]) -> bool:
        """Whether ranks that are to end are on their way.

        The kernel takes one apart, or they and what they started have computed since the last call: the exit
        of an interpreter waits for workers, which may still be starting.
        """
        families = [self.family(rank) for rank in ranks]
        former, self._ticks = self._ticks, {}
        for family in families:
            self._ticks |= family.ticks()
        computed = sum(used - former.get(pid, 0) for pid, used in self._ticks.items())
        return computed >= _COMPUTED or any(family.dying() for family in families)

    def _fetch(self) -> None:
        """Bring what ranks on other machines have written here, now and again."""
        self._machines.fetch(self._directories)
        if self._machines.away and not self._closed:
            self._fetching.at = SYSTEM_CLOCK.monotonic() + _FETCHING

    def exitcode(self, rank: int) -> int | None:
        """The exit code of a rank, unjudged, as soon as it has ended; `None` before."""
        self._check(rank)
        end = None if self.control is None else self.control.exits.get(rank)
        return None if end is None else end.exitcode

    def sentinel(self, rank: int) -> int:
        """A descriptor that can be read once the rank's exit code is known; it is closed with the group."""
        if self._closed:
            raise RuntimeError("the group is closed: its sentinels are, too, and exit codes are known")
        known = self.exitcode(rank) is not None
        if rank not in self._sentinels:
            self._sentinels[rank] = os.eventfd(int(known), os.EFD_CLOEXEC)
        return self._sentinels[rank]

    def signal(self, rank: int, signum: int) -> None:
        """Send a signal to a rank, if it runs."""
        self._check(rank)
        if self.control is not None:
            self.control.signal((rank,), signum)

    def _check(self, rank: int) -> None:
        if rank not in self._directories:
            raise ValueError(f"there is no rank {rank!r}, only 0 to {len(self._directories) - 1}")

    def next_timer(self) -> float:
        """When the first timer of a rank expires, on the monotonic clock; `inf` for never."""
        return self.timers.next_deadline()

    def gather(self, answers: Answers, waiting: set[int]) -> None:
        """Take what ranks have answered, and who has ended instead."""
        if self.channels.fault is not None:
            raise self.channels.fault
        assert self.control is not None
        for rank in sorted(waiting):
            inbox = self.channels.inbox[rank]
            while inbox and isinstance(inbox[0], Raised):
                answers.raised[rank] = inbox.popleft()
            # Past its timer a rank is dead, whatever it could still send before the kill.
            if inbox and not isinstance(inbox[0], Borrow) and rank not in self.timers.expiries:
                answers.replies[rank] = inbox.popleft()
                waiting.discard(rank)
            elif rank in self.control.exits or self.control.over:
                missing = RankExited(rank, -signal.SIGKILL, 0.0)
                answers.exits[rank] = self.control.exits.get(rank, missing)
                waiting.discard(rank)

    def take_stacks(self, ranks: Iterable[int], done: Done) -> None:
        """Where these ranks stand; see `RankStacks.take`."""
        if self.control is None:
            done({})
        else:
            self.stacks.take(self.control, list(ranks), done)

    def dump_stacks(self, ranks: Iterable[int], done: Done) -> None:
        """Have these ranks write their stacks; see `RankStacks.dump`."""
        if self.control is None:
            done({})
        else:
            self.stacks.dump(self.control, list(ranks), done)

    def take_stacks_in_c(self, ranks: Iterable[int], done: Done) -> None:
        """Likewise, and of ranks that are in no store what they do in C (the extra `stacks`)."""
        pids, outside = self.pids(), self.detector.outside()
        inside = [rank for rank in ranks if rank not in outside]
        # The others are not asked to write: a signal lets some calls return, and the rank goes on.
        seen = {
            rank: pids[rank] for rank in ranks if rank in outside and self.family(rank).state() not in "TZ"
        }

        def spied(first: dict[int, list[Stack]], found: dict[int, list[Stack]]) -> None:
            found = {**first, **found}
            self.take_stacks([r for r in ranks if r not in found], lambda rest: done({**found, **rest}))

        # Those inside at once: they may go on.
        self.take_stacks(inside, lambda first: self.stacks.spy(seen, True, partial(spied, first)))

    def close(self) -> None:
        """The group has ended: let go of everything; idempotent."""
        if self.rendezvous is not None:
            self.rendezvous.close()
        self._closed, self._fetching.at = True, math.inf
        while self._sentinels:
            os.close(self._sentinels.popitem()[1])
        self.detector.close()
        self.output.close()
        self.stacks.close()
        self.channels.close()
        self.server.close()
        self.timers.close()

    def abandon(self) -> None:
        """Nobody holds the group any more: end it."""
        if self.control is not None:
            self.control.close()
        self.close()

    def _refusal(self, rank: int, purpose: bytes) -> str:
        if rank not in self._directories:
            return f"there is no rank {rank}"
        connected = self.channels.has(rank) if purpose == CHANNEL else self.timers.has(rank)
        return f"rank {rank} is connected already" if connected else ""

    def _admit(self, rank: int, purpose: bytes, end: socket.socket) -> None:
        if purpose == CHANNEL:
            self.channels.adopt(rank, end)
        else:
            self.timers.adopt(rank, end.detach(), stream=True)

    def _let_go(self) -> None:
        if self.rendezvous is not None:
            self.rendezvous.close()
        self.server.let_go()
        self.detector.close()
        self.output.let_go()
        self.channels.close()
        self.timers.close()
        if self.control is not None:
            self.control.let_go()

    # What happens to ranks.

    def _heard(self, rank: int, message: Any) -> None:
        if isinstance(message, PhaseReport) and rank not in self.timers.expiries:
            first_line = message.crash.partition("\n")[0]
            how = (message.when, message.outcome, first_line, os.path.basename(message.place))
            self.server.tell()
            if message.outcome == "failed" and not message.of_timeout:
                self.detector.went_on(rank)
            ended = events.PhaseEnded(message.at, rank, *how)
            self.detector.note([ended, events.RankInspected(message.at, rank, *message.inspection)])
            self.server.rested(rank)

    def _note_exit(self, exited: RankExited) -> None:
        """Tell the detector; the store forgets the rank."""
        rank = exited.rank
        self._machines.of(rank).fetch(self._directories[rank])
        self.server.tell()
        if exited.exitcode not in _STOPPED:
            recorded = of_timeout_in(self._directories[rank] / "error.json")
            of_timeout = not self.detector.did_more(rank) if recorded is None else recorded
            if not of_timeout:
                self.detector.went_on(rank)
        expiry = self.timers.expiries.get(rank)
        text = exited.lost.removeprefix("was ") if expiry is None else describe_expiry(expiry)
        self.detector.note([events.RankExited(exited.at, rank, exited.exitcode, text)])
        self.server.drop(rank)
        if rank in self._sentinels:
            os.eventfd_write(self._sentinels[rank], 1)

    # Timers.

    def _expire(self, ranks: list[int]) -> None:
        """Kill the ranks whose timers have expired, once everybody's stacks are written."""
        for rank in ranks:
            self.take_stacks([rank], partial(self._note_place, rank))

    def _note_place(self, rank: int, found: dict[int, list[Stack]]) -> None:
        self.timers.stood[rank] = found.get(rank, [])
        assert self.control is not None
        others = [one for one in self._directories if one != rank and one not in self.control.exits]
        self.take_stacks(others, partial(self._kill, rank))

    def _kill(self, rank: int, _: object) -> None:
        assert self.control is not None
        self.control.signal((rank,), signal.SIGKILL)


class Collection:
    """The answers of one `collect`, as they come.  `look` belongs to the loop.

    Attributes:
        answers: up to now.
        waiting: the ranks that have not answered.
        failed: whether one of the answers was a failure.
    """

    def __init__(
        self, core: GroupLoop, loans: Loans, ranks: Iterable[int], is_failure: Callable[[Any], bool]
    ) -> None:
        self._core, self._loans, self._is_failure = core, loans, is_failure
        self.answers, self.waiting, self.failed = Answers(), set(ranks), False
        self._state: tuple[object, ...] = (False, False, frozenset(), False, ("", False))

    def look(self) -> bool:
        """Take in what came; whether the collector has to decide something anew."""
        self._core.gather(self.answers, self.waiting)
        answers, detector = self.answers, self._core.detector
        self.failed = any(map(self._is_failure, (*answers.replies.values(), *answers.exits.values())))
        raised = frozenset(answers.raised.keys() & self.waiting)
        moves = self.failed and detector.moves
        over = (detector.endless, detector.parking.until > 0)
        before, self._state = self._state, (not self.waiting, self.failed, raised, moves, over)
        # One rank after the other may want the terminal: that is no change.
        return self._state != before or self._loans.wanted()


def begun(ranks: Iterable[int], phase: str) -> list[events.Event]:
    """A phase begins on these ranks."""
    now = SYSTEM_CLOCK.monotonic()
    return [events.PhaseBegan(now, rank, phase) for rank in ranks]
