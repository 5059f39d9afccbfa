"""Meeting point of the processes of one launcher: where rank 0 tells the others its address and the token.

On one machine that is a file in the directory for temporary files.  Its name is made of the launcher's
process, which they have in common, and only their user can read it.  Each of the others has written before
which process it is, so that rank 0 does not wait for one that has ended.  All are removed when all have come:
another session under the same launcher can meet there.

On several machines it is the store that torchrun serves, or a file on a filesystem that they share, whose
path the variable `PYTEST_ELASTIC_RENDEZVOUS` tells.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import ElasticError
from pytest_elastic.pristine import json, os, socket, time
from pytest_elastic.processes import OuterLauncher, Process, this_machine, this_process
from pytest_elastic.store import torchs_store

PATH = "PYTEST_ELASTIC_RENDEZVOUS"
_LOOPBACK = "127.0.0.1"
_PERIOD = 0.02
_ELSEWHERE = "what it said is not part of this report"
_PATIENCE = 10.0  # Seconds for a store of torchrun's that is there.


class ExternalError(ElasticError):
    """The processes of the launcher cannot work as one session; the text says why."""


class Place(NamedTuple):
    """Where the session is run: at rank 0.

    Attributes:
        address, token: of its rendezvous.
        machine: see `processes.this_machine`.
    """

    address: str
    token: str
    machine: str


class Host(Protocol):
    """Where the process that runs the session meets all others."""

    def publish(self, address: str, token: str) -> None:
        """Tell where it listens.

        Raises:
            ExternalError: another one of this launcher waits there, or nothing can be told there.
        """

    def ended(self, rank: int) -> bool:
        """Whether a rank was announced, and its process is known to have ended."""

    def said(self, rank: int) -> str:
        """What a rank that has ended has said, or where that is."""

    def withdraw(self) -> None:
        """Take back all that was told; idempotent."""


class Guest(Protocol):
    """Where any other process meets it."""

    def announce(self, rank: int) -> None:
        """This process may come.

        Raises:
            ExternalError: nothing can be told there.
        """

    def leave(self, rank: int) -> None:
        """Take back what this rank has announced."""

    def find(self, limit: float) -> Place:
        """Where the session is run; blocks until that is told, for `limit` seconds at most.

        Raises:
            ExternalError: it was not told.
        """


class MeetingPoint(Host, Guest, Protocol):
    """Where the processes of a world meet."""


def meeting_point(world: OuterLauncher) -> MeetingPoint:
    """That of this world.

    Raises:
        ExternalError: it is on several machines, and there is none that they share.
    """
    if not world.spread:
        directory = Path(tempfile.gettempdir()) / f"pytest-elastic-{os.getuid()}"
        return _File(directory / f"{world.key}-{world.attempt}.json")
    if path := os.environ.get(PATH):
        return _File(Path(path), shared=True)
    if world.store:
        return _TorchsStore(world.store, f"pytest-elastic/{world.attempt}")
    raise ExternalError(
        f"{world.name} has started {world.size} ranks on several machines; set {PATH} in all of them to the"
        " path of a file, new for each run, on a filesystem that they share (--elastic-launcher=local starts"
        " ranks here)"
    )


def interface_of(world: OuterLauncher) -> str:
    """The address of this machine at which the ranks of a world find rank 0.

    Raises:
        ExternalError: they are on several machines, and none is known that others can reach.
    """
    if not world.spread:
        return _LOOPBACK
    names = filter(None, (world.address, socket.gethostname()))
    for name in names:
        with contextlib.suppress(OSError):
            for family, _, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
                host = str(address[0])
                if host.startswith(("127.", "::1")):
                    continue
                with contextlib.suppress(OSError), socket.socket(family) as probe:
                    probe.bind((host, 0))
                    return host
    raise ExternalError(
        "the ranks are on several machines, and no address of rank 0's is known that the others can reach:"
        " set MASTER_ADDR to one, in all of them"
    )


class _TorchsStore:
    """A meeting point in a store that torchrun serves."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.rpartition(":")
        self._place, self._key = (host.strip("[]"), int(port)), key

    def publish(self, address: str, token: str) -> None:
        self._store(_PATIENCE).set(self._key, json.dumps(Place(address, token, this_machine())))

    def announce(self, rank: int) -> None:
        """Nothing: torchrun ends all when one has failed."""

    def ended(self, rank: int) -> bool:
        return False

    def said(self, rank: int) -> str:
        return _ELSEWHERE

    def leave(self, rank: int) -> None:
        """Nothing was told."""

    def find(self, limit: float) -> Place:
        try:
            return Place(*json.loads(self._store(limit).get(self._key)))
        except RuntimeError as error:
            raise ExternalError(f"rank 0 has not come within {limit:g} s: {error}") from None

    def withdraw(self) -> None:
        with contextlib.suppress(ExternalError):
            self._store(_PATIENCE).delete_key(self._key)

    def _store(self, timeout: float) -> Any:
        try:
            return torchs_store(*self._place, timeout)
        except RuntimeError as error:
            raise ExternalError(f"torchrun's store cannot be reached: {error}") from None


@dataclass(frozen=True, slots=True)
class _File:
    """A meeting point in files.

    Attributes:
        path: of that of rank 0.
        shared: whether its directory is the user's, and other machines see it.
    """

    path: Path
    shared: bool = False

    def publish(self, address: str, token: str) -> None:
        known = self._read()
        if known:
            raise ExternalError(
                f"another pytest (pid {known['writer'][0]}) waits for the ranks of this launcher, which can"
                " run one session at a time"
            )
        self._write(self.path, address=address, token=token, machine=this_machine())

    def announce(self, rank: int) -> None:
        self._write(self._of(rank))

    def ended(self, rank: int) -> bool:
        try:
            return not self._runs(json.loads(self._of(rank).read_text("utf-8")))
        except (OSError, ValueError):
            return False

    def said(self, rank: int) -> str:
        return _ELSEWHERE

    def withdraw(self) -> None:
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}.rank*")):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def leave(self, rank: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._of(rank))

    def find(self, limit: float) -> Place:
        deadline = Deadline(SYSTEM_CLOCK.monotonic() + limit)
        while not deadline.passed():
            known = self._read()
            if known:
                return Place(known["address"], known["token"], known["machine"])
            time.sleep(_PERIOD)
        raise ExternalError(
            f"rank 0 has not come within {limit:g} s: its pytest has ended, or has no tests on ranks, or does"
            f" not see {self.path}"
        )

    def _of(self, rank: int) -> Path:
        return self.path.with_suffix(f".rank{rank}")

    def _write(self, path: Path, **told: str) -> None:
        directory, own = path.parent, this_process()
        draft = path.with_suffix(f".draft{os.getpid()}")
        text = json.dumps({**told, "writer": [own.pid, own.started], "on": this_machine()})
        try:
            if not self.shared:
                directory.mkdir(mode=0o700, exist_ok=True)
                if os.stat(directory).st_uid != os.getuid():
                    raise ExternalError(f"{directory} belongs to another user, and ranks are to meet there")
            draft.touch(mode=0o600)
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, path)
        except OSError as error:
            raise ExternalError(f"ranks cannot meet at {path}: {error.strerror}") from None

    def _read(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):  # Not there.
            return {}
        return known if self._runs(known) else {}

    def _runs(self, known: dict[str, Any]) -> bool:
        """Whether the process that wrote this runs, as far as is known from here."""
        return known["on"] != this_machine() or not Process(*known["writer"]).ended()
