"""Agents as rank 0 sees them: it meets them, has them start ranks, and notices who is lost.

*Theory of operation.*  A group has one guardian for each rank, at the agent of that number; rank 0's own is
its child.  Where pytest's process is none of the ranks, all are at agents.  `_Guardians` makes one of the
guardians: it passes commands on, and tells a group what one guardian would have told.  All of it lives in a
loop with a thread of its own.  An agent that is lost has lost its ranks: they count as killed, their group
ends as any other would, and no further one is started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import GuardianError
from pytest_elastic.external._agent import scrubbed
from pytest_elastic.external._far_machine import FarMachine
from pytest_elastic.external._meeting_point import ExternalError, Host, interface_of
from pytest_elastic.external._orders import (
    AGENT,
    QUESTIONS,
    FromGuardian,
    GuardianGone,
    Join,
    Leave,
    LetGo,
    NodeGone,
    StartRank,
    ToGuardian,
)
from pytest_elastic.launch import Launcher, Rendezvous, keep_alive
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing import (
    SWEEP_LIMIT,
    Channel,
    Ended,
    RankExited,
    RankStart,
    Signal,
    Started,
    StartFailed,
    Stop,
)
from pytest_elastic.pristine import signal, socket
from pytest_elastic.processes import OuterLauncher

_PERIOD = 0.2  # Seconds between two looks for processes that have ended.
_SHOWN = 5  # Tests, where collections differ.


class Agents:
    """The agents of all ranks but this process's, which is rank 0, or none of them.

    Args:
        world: made by the launcher; its `rank` is -1 in a process that is none.
        meeting_point: of that world.
        own: what an agent would say of itself, for comparison.
        on_lost: called in the loop, in words, when an agent is lost.
        nodes: rank -> where the launcher runs it, in words; `{}` where it does not say.

    Attributes:
        lost: rank -> in words, how.
        host: the interface on which ranks and agents connect.
        away: rank -> its machine, for agents on others than this one.
    """

    def __init__(
        self,
        world: OuterLauncher,
        meeting_point: Host,
        own: Join,
        on_lost: Callable[[str], object],
        nodes: Mapping[int, str] | None = None,
    ) -> None:
        self._world, self._own, self._on_lost, self._nodes = world, own, on_lost, dict(nodes or {})
        self._ranks = range(world.rank + 1, world.size)
        self._here = "pytest" if world.rank < 0 else "rank 0"
        self._loop = Loop("elastic agents")
        self._meeting_point = meeting_point
        self._channels: dict[int, Channel] = {}
        self._joined: dict[int, Join] = {}
        self._groups: dict[int, _Guardians] = {}
        self._number = 0
        self._leaving = False
        self.lost: dict[int, str] = {}
        self.away: dict[int, FarMachine] = {}
        self.host = interface_of(world)
        purposes = AGENT + QUESTIONS
        self._rendezvous = Rendezvous(self._loop, self.host, purposes, self._refusal, self._admit)
        self._loop.in_child(self._let_go)  # The zygote is forked while this process listens.

    def gather(self, limit: float) -> None:
        """Meet all agents; blocks until they have come, for `limit` seconds at most.

        Raises:
            ExternalError: some did not come, or have collected other tests, or are of another version.
        """
        self._meeting_point.publish(self._rendezvous.address, self._rendezvous.token)
        self._loop.start()
        deadline = Deadline.after(limit)
        try:
            while (missing := self._missing()) and not deadline.passed():
                if over := [rank for rank in missing if self._meeting_point.ended(rank)]:
                    raise ExternalError(
                        f"the pytest of {_ranks(over)}, which {self._world.name} started, has ended before"
                        f" its first test; {self._meeting_point.said(over[0])}"
                    )
                self._loop.wait(lambda: not self._missing(), Deadline.after(_PERIOD).earlier(deadline))
        finally:
            self._meeting_point.withdraw()
            self._loop.call(self._rendezvous.close)
        if missing:
            raise ExternalError(
                f"{_ranks(missing)} of {self._world.size} that {self._world.name} started did not come within"
                f" {limit:g} s: it has no tests on ranks, or collects them still"
            )
        for rank in sorted(self._joined):
            self._compare(rank, self._joined[rank])

    def launcher(self, method: str, local: Launcher | None) -> Launcher:
        """The launcher of this start method for ranks on all agents, and a local one for rank 0, if any."""
        return _WorldLauncher(self, method, local)

    def leave(self, status: int) -> None:
        """The run is over: the agents end with this exit status; idempotent."""
        self._loop.call(partial(self._leave, status))
        self._loop.close()

    def start(self, method: str, starts: Sequence[RankStart], local: Channel | None) -> Channel:
        """Start these ranks; `local` is the channel to the guardian of rank 0, if that is this process's.

        Raises:
            GuardianError: an agent is lost.
        """
        gone = [rank for rank in range(len(starts)) if rank in self.lost]
        if gone:
            if local is not None:
                local.close()
            raise GuardianError(self.lost[gone[0]])
        control, theirs = Channel.pair()
        self._loop.call(partial(self._start, method, starts, local, theirs))
        return control

    # In the loop.

    def _missing(self) -> list[int]:
        return [rank for rank in self._ranks if rank not in self._joined]

    def _refusal(self, rank: int, purpose: bytes) -> str:
        if rank not in self._ranks:
            return f"there is no rank {rank} to come"
        known = self._channels if purpose == AGENT else self.away
        return f"rank {rank} has come already" if rank in known else ""

    def _admit(self, rank: int, purpose: bytes, end: socket.socket) -> None:
        keep_alive(end)
        if purpose == QUESTIONS:
            self.away[rank] = FarMachine(end)
            return
        self._channels[rank] = channel = Channel(end)
        self._loop.watch(channel.fileno(), partial(self._hear, rank))

    def _compare(self, rank: int, join: Join) -> None:
        own = self._own
        for what in ("version", "python"):
            if join[what] != own[what]:
                name = {"version": "pytest-elastic", "python": "Python"}[what]
                raise ExternalError(f"rank {rank} has {name} {join[what]}, and {self._here} has {own[what]}")
        if join["failed"]:
            raise ExternalError(f"rank {rank} could not collect its tests:\n{join['failed']}")
        theirs, ours = join["tests"], own["tests"]
        if theirs == ours:
            return
        said = [f"rank {rank} has collected other tests than {self._here}"]
        for whose, some, others in ((f"rank {rank}", theirs, ours), (self._here, ours, theirs)):
            known = set(others)
            if only := [test for test in some if test not in known]:
                more = f" and {len(only) - _SHOWN} more" if len(only) > _SHOWN else ""
                said.append(f"  {whose} alone has {', '.join(only[:_SHOWN])}{more}")
        if len(said) == 1:
            pairs = enumerate(zip(theirs, ours, strict=False), 1)
            number, (one, other) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
            where = "in pytest" if self._here == "pytest" else f"on {self._here}"
            said.append(f"  in another order: test {number} is {one} there, and {other} {where}")
        raise ExternalError("\n".join(said))

    def _hear(self, rank: int) -> None:
        channel = self._channels[rank]
        for message, _ in channel.receive():
            if isinstance(message, FromGuardian):
                if message.group in self._groups:
                    self._groups[message.group].hear(rank, message.message)
            elif isinstance(message, GuardianGone):
                if message.group in self._groups:
                    self._groups[message.group].gone(rank)
            elif isinstance(message, NodeGone):
                self._lose_node(rank, message.how)
            else:
                self._joined[rank] = message
                self._loop.recheck()
        if channel.closed:
            self.lose(rank, "has ended")

    def lose(self, rank: int, how: str) -> None:
        """An agent has ended, or does not answer: nothing more is asked of it; idempotent."""
        pid = f" (pid {self._joined[rank]['pid']})" if rank in self._joined else ""
        node = self._nodes.get(rank, "")
        where = f" on {node}" if node else ""
        words = f"the pytest of rank {rank}{pid}{where}, which {self._world.name} started, {how}"
        self._lose([rank], words, f"was lost: its pytest on {node} {how}" if node else "")

    def _lose_node(self, rank: int, how: str) -> None:
        """The node of a rank is gone, and with it all others that run there."""
        node = self._nodes[rank]
        ranks = [one for one, where in self._nodes.items() if where == node]
        words = f"{self._world.name} has lost {node}, and {_ranks(ranks)} with it: {how}"
        self._lose(ranks, words, f"was lost with {node}")

    def _lose(self, ranks: Sequence[int], words: str, end: str) -> None:
        gone = [
            rank for rank in ranks if not self._leaving and rank in self._channels and rank not in self.lost
        ]
        for rank in gone:
            self._loop.unwatch(self._channels[rank].fileno())
            self._channels[rank].close()
            if rank in self.away:
                self.away[rank].close()
            self.lost[rank] = words
            for group in list(self._groups.values()):
                group.gone(rank, end)
        if gone:
            self._on_lost(words)
            self._loop.recheck()

    def send(self, rank: int, order: Any) -> None:
        """Give an order to an agent; nothing happens if it is lost."""
        with suppress(OSError):  # It is noticed where its channel is read.
            self._channels[rank].send(order)

    def forget(self, number: int) -> None:
        """A group is over."""
        self._groups.pop(number, None)

    def _start(
        self, method: str, starts: Sequence[RankStart], local: Channel | None, control: socket.socket
    ) -> None:
        self._number += 1
        group = _Guardians(self, self._loop, self._number, len(starts), local, Channel(control))
        self._groups[self._number] = group
        for start in starts[self._ranks.start :]:
            self.send(start.rank, StartRank(self._number, method, start, SYSTEM_CLOCK.monotonic()))

    def _let_go(self) -> None:
        self._rendezvous.close()
        for channel in self._channels.values():
            channel.close()
        for machine in self.away.values():
            machine.close()

    def _leave(self, status: int) -> None:
        self._leaving = True
        self._rendezvous.close()
        for rank, channel in self._channels.items():
            self.send(rank, Leave(status))
            self._loop.unwatch(channel.fileno())
            channel.close()
        for machine in self.away.values():
            machine.close()


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s'[: len(ranks) - 1]} {', '.join(map(str, ranks))}"


class _WorldLauncher:
    """A launcher whose ranks are started by the agents of their numbers."""

    def __init__(self, agents: Agents, method: str, local: Launcher | None) -> None:
        self._agents, self._method, self._local = agents, method, local

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Have a guardian for each rank started; the channel to all of them as one."""
        local = None if self._local is None else self._local.start_group([scrubbed(starts[0])])
        return self._agents.start(self._method, starts, local)

    def close(self) -> bool:
        """Nothing of its own is left to end."""
        return True


class _Guardians:
    """The guardians of one group as one.  All methods belong to the loop of the agents.

    Args:
        number: of the group.
        size: how many ranks it has.
        local: to the guardian of rank 0; `None` where an agent has it.
        control: to the group.
    """

    def __init__(
        self, agents: Agents, loop: Loop, number: int, size: int, local: Channel | None, control: Channel
    ) -> None:
        self._agents, self._loop, self._number = agents, loop, number
        self._local, self._control = local, control
        self._pids: dict[int, int] = {}
        self._exited: set[int] = set()
        self._guarded, self._ended = set(range(size)), list[Ended]()
        self._size = size
        self._patience = loop.alarm(self._give_up)
        loop.watch(control.fileno(), self._obey)
        if local is not None:
            loop.watch(local.fileno(), partial(self._hear_local, local))

    def hear(self, rank: int, message: Any) -> None:
        """Something that the guardian of a rank told."""
        if isinstance(message, Started):
            self._pids.update(message.pids)
            if len(self._pids) == self._size:
                self._tell(Started(dict(sorted(self._pids.items()))))
        elif isinstance(message, Ended):
            self._end(rank, message)
        else:
            if isinstance(message, RankExited):
                self._exited.add(rank)
            self._tell(message)

    def gone(self, rank: int, lost: str = "") -> None:
        """The guardian of a rank is gone; if it has not said that its rank has ended, that was killed.

        Args:
            lost: see `RankExited`.
        """
        if rank not in self._guarded:
            return
        if len(self._pids) < self._size:
            self._tell(StartFailed(rank, OSError(f"the guardian of rank {rank} is gone")))
        elif rank not in self._exited:
            self._tell(RankExited(rank, -signal.SIGKILL, SYSTEM_CLOCK.monotonic(), lost))
        self._end(rank, Ended((), {}))

    def _end(self, rank: int, ended: Ended) -> None:
        self._guarded.discard(rank)
        self._ended.append(ended)
        if not self._guarded:
            leaks = tuple(leak for one in self._ended for leak in one.leaks)
            survivors = {pid: name for one in self._ended for pid, name in one.survivors.items()}
            self._tell(Ended(leaks, survivors))

    def _tell(self, message: Any) -> None:
        with suppress(OSError):  # The group was let go of.
            self._control.send(message)

    def _hear_local(self, local: Channel) -> None:
        for message, _ in local.receive():
            self.hear(0, message)
        if local.closed:
            self._loop.unwatch(local.fileno())
            self.gone(0)

    def _obey(self) -> None:
        for command, _ in self._control.receive():
            ranks = self._guarded & set(command.ranks) if isinstance(command, Signal) else self._guarded
            if isinstance(command, Signal | Stop):
                for rank in ranks:
                    self._pass_on(rank, command)
            if isinstance(command, Stop):
                due = SYSTEM_CLOCK.monotonic() + command.grace + SWEEP_LIMIT
                self._patience.at = min(due, self._patience.at)
        if self._control.closed:
            self._let_go()

    def _give_up(self) -> None:
        """Agents on other machines that have not told the end of their ranks by now do not answer."""
        self._patience.at = math.inf
        for rank in self._guarded & set(self._agents.away):
            self._agents.lose(rank, "does not answer")

    def _pass_on(self, rank: int, command: Any) -> None:
        if rank or self._local is None:
            self._agents.send(rank, ToGuardian(self._number, command))
            return
        with suppress(OSError):  # It ends: its last words are on their way.
            self._local.send(command)

    def _let_go(self) -> None:
        self._patience.at = math.inf
        for rank in range(self._local is not None, self._size):
            self._agents.send(rank, LetGo(self._number))
        for channel in (self._control, self._local):
            if channel is not None:
                self._loop.unwatch(channel.fileno())
                channel.close()
        self._agents.forget(self._number)
