"""Machines: where the processes of ranks are looked at, and where the files lie that they write.

A rank's process is on this machine, or on one of which this process knows only what somebody there tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pytest_elastic.processes import Family, left_by, stand

UNREACHABLE = "unreachable"
"""The state of a process of which nothing is known, since its machine does not answer."""


class Machine(Protocol):
    """A machine on which ranks run.  Its methods may be called from any thread.

    Attributes:
        near: whether its processes are seen from here, by their numbers.
    """

    near: bool

    def family(self, pid: int) -> Family:
        """The process of a rank, and those below it."""

    def stand(self, pids: Sequence[int], names: Mapping[int, str]) -> list[tuple[str, str, str]]:
        """The states of processes that make no progress, as `processes.stand`, or `UNREACHABLE`."""

    def left_by(self, pids: Sequence[int]) -> list[str]:
        """Commands of the processes that these ranks have started and that still run; see `processes`."""

    def fetch(self, directory: Path) -> None:
        """Bring what a rank has written to its files since the last time into its directory here."""


class ThisMachine:
    """The machine of this process."""

    near = True

    def family(self, pid: int) -> Family:
        return Family(pid)

    def stand(self, pids: Sequence[int], names: Mapping[int, str]) -> list[tuple[str, str, str]]:
        return stand(pids, names)

    def left_by(self, pids: Sequence[int]) -> list[str]:
        return left_by(pids)

    def fetch(self, directory: Path) -> None:
        """Nothing: they are here."""


HERE = ThisMachine()


class Machines:
    """The machines of a group's ranks.

    Args:
        away: rank -> where it runs, for those that are not on this machine.
    """

    def __init__(self, away: Mapping[int, Machine] | None = None) -> None:
        self.away = dict(away or {})

    def of(self, rank: int) -> Machine:
        """That of a rank."""
        return self.away.get(rank, HERE)

    def place_of(self, rank: int, nprocs: int) -> dict[str, str]:
        """The variables that tell a rank its number on its machine, and how many there are."""
        beside = [one for one in range(nprocs) if self.of(one) is self.of(rank)]
        return {"LOCAL_RANK": str(beside.index(rank)), "LOCAL_WORLD_SIZE": str(len(beside))}

    def fetch(self, directories: Mapping[int, Path]) -> None:
        """Bring what ranks have written elsewhere into their directories here."""
        for rank, machine in self.away.items():
            if rank in directories:
                machine.fetch(directories[rank])

    def stand(self, pids: Mapping[int, int], ranks: Iterable[int]) -> dict[int, tuple[str, str, str]]:
        """How these ranks stand, of all whose process ids are given; see `processes.stand`.

        Blocks for a second at most, for each machine that answers.
        """
        found: dict[int, tuple[str, str, str]] = {}
        for machine, mine in self._by_machine(pids):
            names = {pid: f"rank {rank}" for rank, pid in mine.items()}
            asked = [rank for rank in ranks if rank in mine]
            found |= zip(asked, machine.stand([mine[rank] for rank in asked], names), strict=True)
        return found

    def left_by(self, pids: Mapping[int, int]) -> list[str]:
        """Commands of the processes that these ranks have started and that still run, helpers aside."""
        return [
            left for machine, mine in self._by_machine(pids) for left in machine.left_by([*mine.values()])
        ]

    def _by_machine(self, pids: Mapping[int, int]) -> list[tuple[Machine, dict[int, int]]]:
        found: dict[Machine, dict[int, int]] = {}
        for rank, pid in pids.items():
            found.setdefault(self.of(rank), {})[rank] = pid
        return list(found.items())
