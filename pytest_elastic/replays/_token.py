"""Tokens of runs on real ranks: one word each, a sparse schedule whose order is forced in a replay.

    token   = "R1." counts *("." delay) ["+" faults] [".t" test] ".p" 4 hex digits 4 hex digits
    counts  = count *("-" count)                  steps of rank 0, rank 1, ...
    count   = number *("_" number)                of its first connection, its second, ...
    delay   = gap "-" shift                       from the default schedule, as in the simulator's tokens
    faults  = a fault plan's text                 which was injected, and has to be again
    test    = 4 hex digits "x" number             of its name (see `mark_of`), and of its ranks

The last part is a checksum of what is before it, and the fingerprint of the program: of its operations in
their order.  A step is a request, or the timeout of a wait.

*Theory of operation of a replay.*  The server is the scheduler.  When every party that has steps left either
waits for a key or has its request held, nothing more will come by itself, and the enabled steps are known: as
in the simulator, the default scheduler with the token's delays says which one is next.  The timeouts of waits
come last.  Whether the ranks did what the token was made of, the fingerprint says at the end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.replays._order import (
    PATIENCE,
    OrderInterceptor,
    Party,
    name_party,
    party_of,
)
from pytest_elastic.replays._recording import Entry, How, Recording
from pytest_elastic.replays._sparse import UnsuitedError, sparse, steps_of
from pytest_elastic.scheduling import Decision, Delays, SparseScheduler, checksum
from pytest_elastic.store import Gate, Request

_TOKEN = re.compile(
    r"(?P<body>R1\.(?P<counts>\d{1,6}(?:[-_]\d{1,6})*)(?P<delays>(?:\.\d{1,6}-\d{1,6})*)"
    r"(?:\+(?P<faults>[^~.]+))?(?:\.t(?P<mark>[0-9a-f]{4})x(?P<ranks>\d{1,6}))?)"
    r"\.p(?P<check>[0-9a-f]{4})(?P<program>[0-9a-f]{4})"
)


@dataclass(frozen=True, slots=True)
class ScheduledOrder:
    """The order of a token: a sparse schedule of real ranks' steps.  `str` is the token.

    Attributes:
        counts: number of steps of each party.
        delays: (gap, shift) pairs, see `SparseScheduler`.
        program: fingerprint of the program.
        faults, mark, nprocs: as of each `Order`.
    """

    counts: dict[Party, int]
    delays: Delays
    program: int
    faults: FaultPlan
    mark: str = ""
    nprocs: int = 0

    def __str__(self) -> str:
        parts = []
        for rank in range(max(rank for rank, _ in self.counts) + 1):
            clients = range(max((client for owner, client in self.counts if owner == rank), default=0) + 1)
            parts.append("_".join(str(self.counts.get((rank, client), 0)) for client in clients))
        body = "R1." + "-".join(parts) + "".join(f".{gap}-{shift}" for gap, shift in self.delays)
        body += f"+{self.faults}" if len(self.faults) else ""
        body += f".t{self.mark}x{self.nprocs}" if self.mark else ""
        return f"{body}.p{checksum(body):04x}{self.program:04x}"

    def force(self, following: Gate) -> ScheduledInterceptor:
        return ScheduledInterceptor(self, following)


def order_of(recording: Recording) -> ScheduledOrder:
    """The sparse schedule of a recording.

    Raises:
        UnsuitedError: there is none.
    """
    if recording.interrupted:  # A party that comes only after a step of another one: that may not come now.
        raise UnsuitedError("a call came in the middle of another one: its moment is in the recording only")
    counts, delays, entries = sparse(recording)
    known = (recording.mark, recording.nprocs) if recording.mark and recording.nprocs else ("", 0)
    return ScheduledOrder(counts, delays, fingerprint(entries), recording.faults, *known)


def parse_order(token: str) -> ScheduledOrder:
    """The order of a token.

    Raises:
        ValueError: the text is no token, or a damaged one.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError("it is no token of this version: R1.counts.delays.seal")
    if int(match["check"], 16) != checksum(match["body"]):
        raise ValueError("the token is damaged: its checksum does not fit")
    counts = {
        (rank, client): int(number)
        for rank, part in enumerate(match["counts"].split("-"))
        for client, number in enumerate(part.split("_"))
        if int(number)
    }
    delays = [part.split("-") for part in match["delays"].split(".")[1:]]
    try:
        faults = parse(match["faults"] or "")
    except FaultPlanError as error:
        raise ValueError(f"the token has no good faults: {error}") from None
    return ScheduledOrder(
        counts,
        tuple((int(gap), int(shift)) for gap, shift in delays),
        int(match["program"], 16),
        faults,
        match["mark"] or "",
        int(match["ranks"] or 0),
    )


def fingerprint(entries: Iterable[Entry]) -> int:
    """Fingerprint of a program, 16 bits: its operations and their keys, in order."""
    crc = 0
    for entry in entries:
        text = f"{entry.rank} {entry.client} {entry.name} {entry.keys} {entry.expires}\n"
        crc = zlib.crc32(text.encode("utf-8", "surrogatepass"), crc)
    return crc & 0xFFFF


class ScheduledInterceptor(OrderInterceptor):
    """Forces the order of a token."""

    def __init__(self, order: ScheduledOrder, following: Gate, patience: float = PATIENCE) -> None:
        super().__init__(sum(order.counts.values()), following, patience)
        self._left = dict(order.counts)
        self._parties = sorted(order.counts)
        self._program, self._entries = order.program, list[Entry]()
        self._scheduler = SparseScheduler(order.delays)
        self._last, self._decisions = -1, 0

    def progress(self) -> str:
        other = "" if self._is_the_program() else ", but of another program than the token's"
        return super().progress() + other

    def check(self) -> None:
        super().check()
        if not self._is_the_program():
            self.diverge("  the token was made for a program that did other operations")
            super().check()

    def _is_the_program(self) -> bool:
        """Whether the fingerprint fits; known at the end only."""
        return self.done < self.steps or fingerprint(self._entries) == self._program

    def expects(self, request: Request) -> bool:
        return self._left.get(party_of(request), 0) > 0

    def upcoming(self) -> tuple[Party, str] | None:
        for party in self._going():
            if party not in self.held and party not in self.blocked:
                return party, f"{name_party(party)} to do something"
        return None

    def _going(self) -> list[Party]:
        return [party for party in self._parties if self._left[party]]

    def take_step(self) -> bool:
        going = self._going()
        if any(party not in self.held and party not in self.blocked for party in going):
            return False
        steps = steps_of(going, set(self.blocked), self._parties)
        choice = self._scheduler.choose(Decision(steps, self._last, self._decisions))
        self._decisions += len(steps) > 1
        step = steps[choice]
        party = self._parties[step.rank]
        self._last = step.rank
        self._left[party] -= 1
        expires = step.kind == "expire"
        request = (self.blocked if expires else self.held)[party]
        how: How = "timed out" if expires else "called"
        self._entries.append(Entry(*party, how, request.name, tuple(request.keys)))
        if expires:
            return self.expire(request, by_itself=not self.held)
        self.apply(request)
        return True
