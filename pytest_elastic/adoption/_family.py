"""Families: adopted processes that live at one time, and which of them are ranks of one world.

*Theory of operation.*  Nobody knows which process is which rank before its own code says so to torch.  So a
process says that it comes to a world, and is held until the others have come (`_gathering`).  It declares
each world that torch has connected for it then, and waits for the answer: when all ranks of a world have
declared it they get a store, over which their collectives are checked from then on.  A world with a member
that declares nothing (pytest's own process, a `subprocess`) is seen by none of its members.

The family has a thread, from its first process to its last one: exits are noted and hangs are found when they
happen, whatever the test looks at.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pytest_elastic.adoption._adopted_world import AdoptedWorld, Process
from pytest_elastic.adoption._gathering import Coming, Gatherings, Starter
from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.collectives import declare_worlds, install
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing import Channel
from pytest_elastic.pristine import os, signal, socket, threading
from pytest_elastic.store import RemoteStore

_PATIENCE = 2.0  # Seconds for the other members to declare a world, once torch has connected them.
_NOTING = 5.0  # And until an exit is noted.


@dataclass(frozen=True, slots=True)
class Declared:
    """From a process: torch has made it a rank.

    Attributes:
        identity: of what connects the world.
    """

    identity: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Answered:
    """To the process: whether its world is seen; the descriptor of its store comes along."""

    seen: bool


@dataclass(frozen=True, slots=True)
class Released:
    """To a process that comes: it may go on, unless ranks are `absent`, which cannot come any more."""

    absent: list[int]
    why: str


class Relative(Process, Starter, Protocol):
    """What a family needs of an adopted process."""


@dataclass(eq=False)
class Member:
    """A process of a family, from before it is started.

    Attributes:
        channel: to it; `theirs` is its end, until it has been started.
        process: `None` before the start.
        pidfd: its, -1 before the start and when it has ended.
        worlds: those that it is in, with its ranks.
        lost: why worlds that it came to are lost.
    """

    family: Family
    channel: Channel
    theirs: socket.socket
    process: Relative | None = None
    pidfd: int = -1
    worlds: list[tuple[AdoptedWorld, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def started(self, process: Relative) -> None:
        """This is the process."""
        self.process = process
        with suppress(ProcessLookupError):  # It may have ended already.
            self.pidfd = os.pidfd_open(process.pid)
        self.family.watch(self)

    def leave(self) -> None:
        """It has ended, or was not started; returns when that is noted.  Idempotent."""
        self.theirs.close()
        self.family.leave(self)

    def words(self) -> list[str]:
        """Why ranks of its worlds hang, or have failed of it."""
        return [*self.lost, *(text for world, _ in self.worlds if (text := world.words()))]


@dataclass(slots=True)
class Pending:
    """A world that not all its ranks have declared yet."""

    identity: str
    size: int
    until: float
    ranks: dict[int, Member] = field(default_factory=dict)


class Family:
    """Adopted processes that live at one time.  Thread-safe.

    Args:
        clock: see `AdoptedWorld`.

    Attributes:
        over: whether its last process has ended; it takes no more.
    """

    def __init__(self, clock: str) -> None:
        self._clock, self.over = clock, False
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._pending: list[Pending] = []
        self._worlds: list[AdoptedWorld] = []
        self._loop = Loop("elastic family")
        self._alarm = self._loop.alarm(self._give_up)
        self._gatherings = Gatherings(self._loop, self._living, self._release)
        self._loop.in_child(self._let_go)
        self._loop.start()

    def enter(self) -> Member | None:
        """A place for a process that is to be started; `None` if the family is over."""
        with self._lock:
            if self.over:
                return None
            self._members.append(member := Member(self, *Channel.pair()))
            return member

    def watch(self, member: Member) -> None:
        """Its process has been started."""
        self._loop.call(partial(self._watch, member))

    def leave(self, member: Member) -> None:
        """See `Member.leave`."""
        if self._loop.is_here or member.process is None:
            self._loop.call(partial(self._leave, member))
        elif member in self._members:  # What it has sent before comes first.
            self._loop.call(partial(self._loop.settle, partial(self._leave, member)))
            self._loop.wait(lambda: member not in self._members, Deadline.after(_NOTING))
        if self.over:
            self._loop.close()

    def close(self) -> None:
        """End, with whatever still runs."""
        for member in list(self._members):
            self._loop.call(partial(self._leave, member))
        self._loop.close()

    # In the loop.

    def _watch(self, member: Member) -> None:
        self._loop.watch(member.channel.fileno(), partial(self._hear, member))
        if member.pidfd >= 0:
            self._loop.watch(member.pidfd, partial(self._see_end, member))
        else:
            self._see_end(member)
        self._gatherings.started()

    def _living(self) -> list[Starter]:
        return [one.process for one in self._members if one.process is not None]

    def _release(self, process: Starter, absent: list[int], why: str, words: str) -> None:
        member = next(one for one in self._members if one.process is process)
        member.lost += filter(None, [words])
        with suppress(OSError):  # It has ended meanwhile.
            member.channel.send(Released(absent, why))

    def _hear(self, member: Member) -> None:
        for message, _ in member.channel.receive():
            if isinstance(message, Coming):
                assert member.process is not None
                self._gatherings.come(member.process, message)
            else:
                self._declare(member, message)
        if member.channel.closed:
            self._loop.unwatch(member.channel.fileno())

    def _see_end(self, member: Member) -> None:
        self._loop.unwatch(member.pidfd)
        assert member.process is not None
        self._loop.settle(member.process.learn_end)  # Which has it leave.

    def _leave(self, member: Member) -> None:
        with self._lock:
            if member not in self._members:
                return
            self._members.remove(member)
            self.over = not self._members
        for world, rank in member.worlds:
            code = member.process.returncode if member.process is not None else None
            world.note_exit(rank, -signal.SIGKILL if code is None else code)
        for pending in self._pending:
            pending.ranks = {rank: one for rank, one in pending.ranks.items() if one is not member}
        self._loop.unwatch(member.channel.fileno())
        member.channel.close()
        if member.pidfd >= 0:
            self._loop.unwatch(member.pidfd)
            os.close(member.pidfd)
            member.pidfd = -1
        if member.process is not None:
            self._gatherings.ended(member.process)
        self._loop.recheck()
        if self.over:
            for one in self._worlds:
                one.close()

    def _declare(self, member: Member, said: Declared) -> None:
        """Put the process in the first world of this sort that lacks its rank."""
        fitting = (one for one in self._pending if (one.identity, one.size) == (said.identity, said.size))
        world = next((one for one in fitting if said.rank not in one.ranks), None)
        if world is None:
            world = Pending(said.identity, said.size, SYSTEM_CLOCK.monotonic() + _PATIENCE)
            self._pending.append(world)
        world.ranks[said.rank] = member
        if len(world.ranks) == world.size:
            self._pending.remove(world)
            self._complete(world)
        self._alarm.at = min((one.until for one in self._pending), default=math.inf)

    def _complete(self, pending: Pending) -> None:
        members = dict(sorted(pending.ranks.items()))
        processes = {rank: one.process for rank, one in members.items() if one.process is not None}
        world = AdoptedWorld(self._loop, processes, self._clock)
        self._worlds.append(world)
        for rank, member in members.items():
            member.worlds.append((world, rank))
            with world.server.pair(rank) as end:
                _answer(member, (end.fileno(),))

    def _give_up(self) -> None:
        """Nobody else comes to these worlds."""
        now = SYSTEM_CLOCK.monotonic()
        for late in [one for one in self._pending if one.until <= now]:
            self._pending.remove(late)
            for member in late.ranks.values():
                _answer(member, ())
        self._alarm.at = min((one.until for one in self._pending), default=math.inf)

    def _let_go(self) -> None:
        for member in self._members:
            member.channel.close()
            if member.pidfd >= 0:
                os.close(member.pidfd)
        for world in self._worlds:
            world.let_go()


def _answer(member: Member, descriptors: tuple[int, ...]) -> None:
    with suppress(OSError):  # It has ended meanwhile.
        member.channel.send(Answered(bool(descriptors)), descriptors)


def join_family(descriptor: int) -> None:
    """In an adopted process: have its worlds gathered and declared over this end of a channel."""
    channel, lock = Channel.of(descriptor), threading.Lock()

    def gather(identity: str, rank: int, size: int, seconds: float) -> tuple[list[int], str]:
        with lock:
            try:
                channel.send(Coming(identity, rank, size, seconds))
                released, _ = channel.wait()
            except (OSError, EOFError):  # See below.
                return [], ""
        return released.absent, released.why

    def declare(identity: str, rank: int, size: int) -> RemoteStore | None:
        with lock:
            try:
                channel.send(Declared(identity, rank, size))
                _, descriptors = channel.wait()
            except (OSError, EOFError):  # The family is over: this process outlives its test.
                return None
        if not descriptors:
            return None
        store = RemoteStore(socket.socket(fileno=descriptors[0]))
        store.place = (rank, size)
        return store

    install()
    declare_worlds(gather, declare)
