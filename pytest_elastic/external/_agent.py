"""Agent: the process of a rank that is not rank 0.  It starts its rank of each group when it is told to.

It relays between rank 0 and the guardians of its ranks, one for each group, and judges nothing.  It ends when
rank 0 says so or is gone; its zygote sees that by itself and sweeps whatever runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import GuardianError
from pytest_elastic.external._orders import (
    FromGuardian,
    GuardianGone,
    Join,
    Leave,
    LetGo,
    StartRank,
    ToGuardian,
)
from pytest_elastic.launch import Launcher
from pytest_elastic.multiprocessing import Channel, RankStart, StartFailed
from pytest_elastic.pristine import select
from pytest_elastic.processes import OF_TORCHRUN

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

    Attributes:
        until: when it ends at the latest, on the monotonic clock.
    """

    def __init__(self, channel: Channel, launcher: Callable[[str], Launcher]) -> None:
        self._channel, self._launcher = channel, launcher
        self._guardians: dict[int, Channel] = {}
        self.until = math.inf

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

    def _step(self) -> int | None:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        numbers = {control.fileno(): group for group, control in self._guardians.items()}
        for number in numbers:
            poll.register(number, select.POLLIN)
        left = Deadline(self.until).remaining()
        # A signal's handler may shorten the time: it is looked at again each second.
        ready = poll.poll(min(left, 1.0) * 1000)
        if not ready and Deadline(self.until).passed():
            return ABANDONED
        for number, _ in ready:
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
        control = self._guardians[group]
        for message, _ in control.receive():
            self._channel.send(FromGuardian(group, message))
        if control.closed:
            self._guardians.pop(group).close()
            self._channel.send(GuardianGone(group))

    def _obey(self, order: Any) -> None:
        if isinstance(order, StartRank):
            try:
                control = self._launcher(order.method).start_group([scrubbed(order.start)])
            except (OSError, GuardianError) as error:
                failed = StartFailed(order.start.rank, OSError(str(error)))
                self._channel.send(FromGuardian(order.group, failed))
                return
            self._guardians[order.group] = control
        elif order.group in self._guardians:
            if isinstance(order, LetGo):
                self._guardians.pop(order.group).close()
            elif isinstance(order, ToGuardian):
                try:
                    self._guardians[order.group].send(order.command)
                except OSError:  # It ends: its last words are on their way.
                    pass
