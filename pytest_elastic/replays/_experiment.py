"""One group under observation: its store is recorded; faults, jitter or a forced order come in.

*Theory of operation.*  An experiment is a row of interceptors ahead of the group's store: first the faults,
then the jitter or the order of a replay.  Made before the ranks have anything to do, it sees every request.
After the run, `check` says whether what was planned has happened, and `recording` what did: the events of the
group, which are kept in any case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_elastic.faults import Fault, FaultPlan
from pytest_elastic.launch import RankGroup
from pytest_elastic.replays._interceptors import FaultInterceptor, Interceptor, JitterInterceptor
from pytest_elastic.replays._order import Order, OrderInterceptor
from pytest_elastic.replays._recording import Recording, load
from pytest_elastic.store import Gate, OpenGate

_SOON = 0.001  # Seconds until the next try to signal a group that is just being forked.
_LONGEST = 200  # Characters of a token that is better than the name of a file.


class Experiment:
    """What happens to one group while it runs one test or one function."""

    def __init__(
        self,
        group: RankGroup,
        plan: FaultPlan | None = None,
        order: Order | None = None,
        seed: str | None = None,
    ) -> None:
        """Take the place ahead of the group's store; its ranks must have no work yet.

        Args:
            group: whose store it is.
            plan: faults to inject, whose ranks were checked; those of the order where there are none.
            order: the order to force.
            seed: of the jitter; `None` where an order is forced.

        Raises:
            ValueError: the order cannot be forced: the recording has lost its beginning.
        """
        self.plan = plan or (FaultPlan() if order is None else order.faults)
        self._group, self._lines = group, NewLines(group.directories)
        gate: Gate = OpenGate()
        self._order: OrderInterceptor | None = None
        self._faults: FaultInterceptor | None = None
        if order is not None:
            gate = self._order = order.force(gate)
        elif seed is not None:
            gate = JitterInterceptor(seed, group.nprocs, gate)
        if self.plan:
            gate = self._faults = FaultInterceptor(self.plan, self._send, self._lines, gate)
        # A store without a gate serves faster.
        group.pass_to(gate if isinstance(gate, Interceptor) else None)

    @property
    def directory(self) -> Path:
        """The directory of the ranks' files."""
        return self._group.plan.directory

    def check(self) -> None:
        """Check that what was planned has happened, in a run that passed otherwise.

        Raises:
            UnfiredFaultError: a fault has not.
            DivergenceError: the forced order was not kept to its end.
        """
        if self._order is not None:
            self._order.check()
        if self._faults is not None:
            self._faults.watch.check()

    @property
    def pending(self) -> tuple[Fault, ...]:
        """The planned faults that have not happened."""
        return () if self._faults is None else self._faults.watch.pending

    def progress(self) -> str:
        """How far the forced order was kept to; `""` where there is none."""
        return "" if self._order is None else self._order.progress()

    def recording(self, **header: Any) -> Recording:
        """The group's history; `header` is completed by what is known here."""
        group = self._group
        known = group.known()
        whole = {**header, "nprocs": group.nprocs, "wake": group.server.state.wake, "faults": str(self.plan)}
        return Recording(known.events, whole, known.lost)

    def operations(self) -> dict[int, int]:
        """Number of operations of each rank."""
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
            (rank, directory / name)
            for rank, directory in directories.items()
            for name in ("stdout.log", "stderr.log")
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


# Tokens are imported where there is one: most runs need none.


def read_orders(text: str, base: Path) -> Sequence[Order]:
    """The orders of a token or of a file of recordings, one for each group of a test.

    Args:
        text: the token, or the file's path from `base`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the text is no token, or the file has no recordings that can be replayed.
    """
    if text.startswith("R1."):
        from pytest_elastic.replays._token import parse_order

        return [parse_order(text)]
    if text.startswith("E1."):
        raise ValueError(
            "it is a token of the simulator;"
            " `real_token` of `pytest_elastic.replays.bridge` makes one for real ranks"
        )
    recordings = load((base / text).read_text("utf-8"))
    for recording in recordings:
        if recording.lost:
            raise ValueError(f"its first {recording.lost} events are missing")
    return recordings


def token_of(recordings: Sequence[Recording]) -> str:
    """The token of a run's recordings; `""` where there is none, or none that is short."""
    from pytest_elastic.replays._sparse import UnsuitedError
    from pytest_elastic.replays._token import order_of

    if len(recordings) > 1:
        return ""
    try:
        token = str(order_of(recordings[0]))
    except UnsuitedError:
        return ""
    return token if len(token) <= _LONGEST else ""
