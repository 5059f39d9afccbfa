"""One group under observation: what its store does is recorded; faults, jitter or a forced order come in.

*Theory of operation.*  A trial is a row of gates ahead of the group's store: first the faults, then the
jitter or the order of a replay.  Made before the ranks have anything to do, it sees every request.  After the
run, `check` says whether what was planned has happened, and `recording` what did: the events of the group's
store, which are kept in any case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_elastic.faults import FaultPlan
from pytest_elastic.faults._forced import ForcedStage
from pytest_elastic.faults._inject import FaultStage
from pytest_elastic.faults._jitter import JitterStage
from pytest_elastic.faults._recording import Recording, recorded
from pytest_elastic.faults._replay import ReplayStage
from pytest_elastic.faults._stage import Stage
from pytest_elastic.launch._ranks import RankGroup

if TYPE_CHECKING:
    from pytest_elastic.launch._token import Order
from pytest_elastic.store import Gate, OpenGate

_SOON = 0.001  # Seconds until the next try to signal a group that is just being forked.


class Trial:
    """What happens to one group while it runs one test or one function."""

    def __init__(
        self,
        group: RankGroup,
        plan: FaultPlan | None = None,
        replay: Recording | Order | None = None,
        seed: str | None = None,
    ) -> None:
        """Take the place ahead of the group's store; its ranks must have no order yet.

        Args:
            group: whose store it is.
            plan: faults to inject, whose ranks were checked.
            replay: what order is forced; with a token's comes its plan, where there is no other.
            seed: of the jitter; none where an order is forced.

        Raises:
            ValueError: the recording has lost its beginning.
        """
        own = FaultPlan() if replay is None or isinstance(replay, Recording) else replay.faults
        self.plan = plan or own
        self._group, self._lines = group, NewLines(group.directories)
        gate: Gate = OpenGate()
        self._replay: ForcedStage | None = None
        self._faults: FaultStage | None = None
        if isinstance(replay, Recording):
            gate = self._replay = ReplayStage(replay, gate)
        elif replay is not None:
            from pytest_elastic.launch._scheduled import ScheduleStage

            gate = self._replay = ScheduleStage(replay, gate)
        elif seed is not None:
            gate = JitterStage(seed, group.nprocs, gate)
        if len(self.plan):
            gate = self._faults = FaultStage(self.plan, self._send, self._lines, gate)
        # A store without a gate serves faster.
        group.pass_to(gate if isinstance(gate, Stage) else None)

    @property
    def directory(self) -> Path:
        """Of the ranks' files."""
        return self._group.plan.directory

    def check(self) -> None:
        """Check that what was planned has happened, in a run that passed otherwise.

        Raises:
            UnfiredFaultError: a fault has not.
            DivergenceError: the forced order was not kept to its end.
        """
        if self._replay is not None:
            self._replay.check()
        if self._faults is not None:
            self._faults.watch.check()

    def progress(self) -> str:
        """How far the forced order was kept to; `""` where there is none."""
        return "" if self._replay is None else self._replay.progress()

    def recording(self, **header: Any) -> Recording:
        """What the store did; the header is completed."""
        group = self._group
        known = group.known()
        whole = {**header, "nprocs": group.nprocs, "wake": group.server.state.wake, "faults": str(self.plan)}
        return recorded(known.events, whole, known.lost)

    def operations(self) -> dict[int, int]:
        """How many operations each rank did."""
        done = Counter(entry.rank for entry in self.recording().entries if entry.begins)
        return {rank: done[rank] for rank in range(self._group.nprocs)}

    def _send(self, rank: int, signum: int) -> None:
        if self._group.pids():
            self._group.group.signal((rank,), signum)
        elif self._faults is not None:  # The launcher does not know its guardian yet.
            self._faults.after(_SOON, partial(self._send, rank, signum))


class NewLines:
    """What ranks have written since the last look, in whole lines."""

    def __init__(self, directories: dict[int, Path]) -> None:
        self._files = [
            (rank, directory / name) for rank, directory in directories.items() for name in _STREAMS
        ]
        self._places = {path: path.stat().st_size if path.exists() else 0 for _, path in self._files}

    def __call__(self) -> Iterator[tuple[int, str]]:
        """(rank, line) for each new one."""
        for rank, path in self._files:
            if not path.exists():
                continue
            with open(path, "rb") as file:
                file.seek(self._places[path])
                data = file.read()
            whole = data.rpartition(b"\n")[0]
            self._places[path] += len(whole) + 1 if whole or data.startswith(b"\n") else 0
            for line in whole.split(b"\n") if whole else ():
                yield rank, line.decode("utf-8", "replace")


_STREAMS = ("stdout.log", "stderr.log")
