"""The token of a run on real ranks: one word that forces its order again.

    token   = "R1." counts *("." delay) ["+" faults] [".t" test] ".p" 4 hex digits 4 hex digits
    counts  = count *("-" count)                  steps of rank 0, rank 1, ...
    count   = number *("_" number)                of its first connection, its second, ...
    delay   = gap "-" shift                       from the default schedule, as in the simulator's tokens
    faults  = a fault plan's text                 which was injected, and has to be again
    test    = 4 hex digits "x" number             of its name (see `mark_of`), and of its ranks

The last part is a checksum of what is before it, and the fingerprint of the program: of its operations in
their order.  A step is a request, or the timeout of a wait.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_elastic.errors import FaultPlanError
from pytest_elastic.faults import FaultPlan, parse
from pytest_elastic.replays._recording import Entry, Party, Recording
from pytest_elastic.replays._sparse import UnsuitedError, sparse
from pytest_elastic.simulator._scheduler import Delays

PREFIX = "R1."
_TOKEN = re.compile(
    r"(?P<body>R1\.(?P<counts>\d{1,6}(?:[-_]\d{1,6})*)(?P<delays>(?:\.\d{1,6}-\d{1,6})*)"
    r"(?:\+(?P<faults>[^~.]+))?(?:\.t(?P<mark>[0-9a-f]{4})x(?P<ranks>\d{1,6}))?)\.p(?P<check>[0-9a-f]{4})(?P<program>[0-9a-f]{4})"
)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of real ranks' steps.

    Attributes:
        counts: how many steps each party takes.
        delays: see `SparseScheduler`.
        program: the fingerprint of what they do.
        faults: what was injected.
        mark: of the test whose run it was; `""` where that is not known.
        nprocs: how many ranks it had; 0 where that is not known.
    """

    counts: dict[Party, int]
    delays: Delays
    program: int
    faults: FaultPlan
    mark: str = ""
    nprocs: int = 0

    def __str__(self) -> str:
        ranks = range(max(rank for rank, _ in self.counts) + 1)
        parts = ["_".join(map(str, self._of(rank))) for rank in ranks]
        body = PREFIX + "-".join(parts) + "".join(f".{gap}-{shift}" for gap, shift in self.delays)
        body += f"+{self.faults}" if len(self.faults) else ""
        body += f".t{self.mark}x{self.nprocs}" if self.mark else ""
        return f"{body}.p{_checksum(body):04x}{self.program:04x}"

    def _of(self, rank: int) -> list[int]:
        clients = [client for owner, client in self.counts if owner == rank]
        return [self.counts.get((rank, client), 0) for client in range(max(clients, default=0) + 1)]


def order_of(recording: Recording) -> Order:
    """The sparse order of a recording.

    Raises:
        UnsuitedError: it has none.
    """
    header = recording.header
    if header.get(
        "interrupted"
    ):  # A party that comes only after a step of another one: that may not come now.
        raise UnsuitedError("a call came in the middle of another one: its moment is in the recording only")
    counts, delays, entries = sparse(recording)
    test, nprocs = header.get("test", ""), header.get("nprocs", 0)
    known = (mark_of(test), nprocs) if test and nprocs else ("", 0)
    return Order(counts, delays, fingerprint(entries), parse(header.get("faults", "")), *known)


def parse_order(token: str) -> Order:
    """The order of a token.

    Raises:
        ValueError: it is none, or damaged.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError("it is no token of this version: R1.counts.delays.seal")
    if int(match["check"], 16) != _checksum(match["body"]):
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
    known = match["mark"] or "", int(match["ranks"] or 0)
    return Order(
        counts, tuple((int(a), int(b)) for a, b in delays), int(match["program"], 16), faults, *known
    )


def mark_of(nodeid: str) -> str:
    """16 bits of a test's name, which are the same for all its parameters, and wherever pytest is run."""
    name = nodeid.partition("[")[0].rpartition("/")[2]
    return f"{zlib.crc32(name.encode('utf-8', 'surrogatepass')) >> 16:04x}"


def mismatch(replay: Recording | Order, nodeid: str, nprocs: int) -> str:
    """Why this is no run of such a test, in words; `""` if it may be one."""
    if isinstance(replay, Order):
        mark, ranks = replay.mark, replay.nprocs
    else:
        test, ranks = replay.header.get("test", ""), replay.header.get("nprocs", 0)
        mark = mark_of(test) if test else ""
    if mark and mark != mark_of(nodeid):
        return f"it is of another test than {nodeid}"
    if ranks and ranks != nprocs:
        return f"it is of a run on {ranks} ranks, and here are {nprocs}"
    return ""


def fingerprint(entries: Iterable[Entry]) -> int:
    """16 bits of what was done, in order."""
    crc = 0
    for entry in entries:
        crc = print_of(entry, crc)
    return crc & 0xFFFF


def print_of(entry: Entry, crc: int) -> int:
    """The fingerprint's next state."""
    text = f"{entry.rank} {entry.client} {entry.name} {entry.keys} {entry.expires}\n"
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), crc)


def _checksum(body: str) -> int:
    return zlib.crc32(body.encode("utf-8", "replace")) >> 16
