"""Agent: the process that starts one rank of each group when it is told to.

It relays between rank 0 and the guardians of its ranks, one for each group, and judges nothing.  It ends when
rank 0 says so or is gone, or a process that it depends on; its zygote sees that by itself and sweeps whatever
runs.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import GuardianError
from pytest_elastic.external._far_machine import Lookout
from pytest_elastic.external._meeting_point import Place
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
from pytest_elastic.launch import Launcher, connect
from pytest_elastic.multiprocessing import Channel, RankExited, RankStart, StartFailed
from pytest_elastic.pristine import os, select, socket
from pytest_elastic.processes import OF_TORCHRUN, this_machine

ABANDONED = 1  # Exit status where rank 0 is gone.
_PATIENCE = 10.0  # Seconds for rank 0 to end a run that the launcher ends.


def scrubbed(start: RankStart) -> RankStart:
    """The start of a rank without what the launcher has told its own processes."""
    return dataclasses.replace(start, env={**dict.fromkeys(OF_TORCHRUN), **start.env})


class Agent:
    """One agent.

    Args:
        channel: to rank 0.
        launcher: the launcher for a start method.
        questions: to rank 0, if that is on another machine: it asks there about processes and files.
        upon: pidfds of processes with which it ends, and what rank 0 is told then.

    Attributes:
        until: when it ends at the latest, on the monotonic clock.
    """

    def __init__(
        self,
        channel: Channel,
        launcher: Callable[[str], Launcher],
        questions: socket.socket | None = None,
        upon: Mapping[int, str] | None = None,
    ) -> None:
        self._channel, self._launcher, self._upon = channel, launcher, dict(upon or {})
        self._guardians: dict[int, Channel] = {}
        self._files: _Files | None = None
        self._ahead = 0.0  # By which the clock of rank 0 is ahead of this one.
        self.until = math.inf
        if questions is not None:
            self._files = _Files()
            Lookout(questions, self._files.place)

    @classmethod
    def at(
        cls,
        place: Place,
        rank: int,
        launcher: Callable[[str], Launcher],
        upon: Mapping[int, str] | None = None,
    ) -> Agent:
        """The agent of a rank, connected to where the session is run; blocks for ten seconds at most.

        Raises:
            DistNetworkError: nobody is there, or the rank is refused.
        """
        there = (place.address, place.token)
        questions = connect(*there, QUESTIONS, rank) if place.machine != this_machine() else None
        return cls(Channel(connect(*there, AGENT, rank)), launcher, questions, upon)

    def hurry(self) -> None:
        """The launcher ends this process: wait no longer than ten seconds for rank 0 to say so."""
        self.until = min(self.until, SYSTEM_CLOCK.monotonic() + _PATIENCE)

    def serve(self, join: Join) -> int:
        """Introduce itself, and do what rank 0 says; blocks until the run is over; the exit status."""
        try:
            self._channel.send(join)
            while (status := self._step()) is None:
                pass
            return status
        except OSError:  # Rank 0 is gone.
            return ABANDONED
        finally:
            for control in self._guardians.values():
                control.close()
            if self._files is not None:
                self._files.close()

    def _step(self) -> int | None:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        numbers = {control.fileno(): group for group, control in self._guardians.items()}
        for number in (*numbers, *self._upon):
            poll.register(number, select.POLLIN)
        left = Deadline(self.until).remaining()
        # A signal's handler may shorten the time: it is looked at again each second.
        ready = poll.poll(min(left, 1.0) * 1000)
        if not ready and Deadline(self.until).passed():
            return ABANDONED
        for number, _ in ready:
            if number in self._upon:
                self._channel.send(NodeGone(self._upon[number]))
                return ABANDONED
            if number in numbers:
                self._relay(numbers[number])
                continue
            for order, _ in self._channel.receive():
                if isinstance(order, Leave):
                    return order.status
                self._obey(order)
            if self._channel.closed:
                return ABANDONED
        return None

    def _relay(self, group: int) -> None:
        control = self._guardians.get(group)
        if control is None:  # Rank 0 has let it go in the meantime.
            return
        for message, _ in control.receive():
            if isinstance(message, RankExited):
                message = dataclasses.replace(message, at=message.at + self._ahead)
            self._channel.send(FromGuardian(group, message))
        if control.closed:
            self._guardians.pop(group).close()
            self._channel.send(GuardianGone(group))

    def _obey(self, order: Any) -> None:
        if isinstance(order, StartRank):
            try:
                control = self._launcher(order.method).start_group([self._own(order)])
            except (OSError, GuardianError) as error:
                failed = StartFailed(order.start.rank, OSError(str(error)))
                self._channel.send(FromGuardian(order.group, failed))
                return
            self._guardians[order.group] = control
        elif isinstance(order, LetGo):
            if order.group in self._guardians:
                self._guardians.pop(order.group).close()
            if self._files is not None:
                self._files.remove(order.group)
        elif isinstance(order, ToGuardian) and order.group in self._guardians:
            try:
                self._guardians[order.group].send(order.command)
            except OSError:  # It ends: its last words are on their way.
                pass

    def _own(self, order: StartRank) -> RankStart:
        """The start of a rank of this process, which may be on another machine than rank 0's."""
        start = scrubbed(order.start)
        if self._files is None:
            return start
        self._ahead = order.now - SYSTEM_CLOCK.monotonic()
        return self._files.take_over(order.group, start, self._ahead)


class _Files:
    """The directories of ranks whose launcher is on another machine."""

    def __init__(self) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="pytest-elastic-ranks-"))
        self._places: dict[str, Path] = {}  # By the directory at rank 0.

    def place(self, there: str) -> Path | None:
        """The directory here that belongs to one at rank 0."""
        return self._places.get(there)

    def take_over(self, group: int, start: RankStart, ahead: float) -> RankStart:
        """The same rank with its files, and its clock, on this machine."""
        there, here = start.job.directory, self._base / str(group)
        here.mkdir()
        self._places[there] = here

        def moved(path: str | None) -> str | None:
            return str(here) + path[len(there) :] if path and path.startswith(there + os.sep) else path

        place = dataclasses.replace(start.job.place, ahead=ahead)
        return dataclasses.replace(
            start,
            env={name: moved(value) for name, value in start.env.items()},
            stdout=str(moved(start.stdout)),
            stderr=str(moved(start.stderr)),
            job=dataclasses.replace(start.job, directory=str(here), place=place),
        )

    def remove(self, group: int) -> None:
        """The group is over, and what its rank has written is at rank 0."""
        here = self._base / str(group)
        for there in [there for there, place in self._places.items() if place == here]:
            del self._places[there]
        shutil.rmtree(here, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._base, ignore_errors=True)
