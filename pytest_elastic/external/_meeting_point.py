"""Meeting point of the processes of one launcher: files in the directory for temporary files.

Rank 0 writes where it listens, and the token; the others wait for it.  The file's name is made of the
launcher's process, which they have in common, and only their user can read it.  Each of the others has
written before which process it is, so that rank 0 does not wait for one that has ended.  All are removed when
all have come: another session under the same launcher can meet there.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import ElasticError
from pytest_elastic.pristine import json, os, time
from pytest_elastic.processes import OuterLauncher, Process, this_process

_PERIOD = 0.02


class ExternalError(ElasticError):
    """The processes of the launcher cannot work as one session; the text says why."""


@dataclass(frozen=True, slots=True)
class MeetingPoint:
    """Where the processes of a world meet.

    Attributes:
        path: of the file.
    """

    path: Path

    @classmethod
    def of(cls, world: OuterLauncher) -> MeetingPoint:
        """That of this world."""
        directory = Path(tempfile.gettempdir()) / f"pytest-elastic-{os.getuid()}"
        return cls(directory / f"{world.key}-{world.attempt}.json")

    def publish(self, address: str, token: str) -> None:
        """Write where rank 0 listens.

        Raises:
            ExternalError: another rank 0 of this launcher waits there, or the directory is not ours.
        """
        known = self._read()
        if known:
            raise ExternalError(
                f"another pytest (pid {known['writer'][0]}) waits for the ranks of this launcher, which can"
                " run one session at a time"
            )
        self._write(self.path, address=address, token=token)

    def announce(self, rank: int) -> None:
        """Write that this process is a rank, which may come.

        Raises:
            ExternalError: the directory is not ours.
        """
        self._write(self._of(rank))

    def ended(self, rank: int) -> bool:
        """Whether a rank was announced, and its process has ended."""
        try:
            return Process(*json.loads(self._of(rank).read_text("utf-8"))["writer"]).ended()
        except (OSError, ValueError):
            return False

    def withdraw(self) -> None:
        """Remove the files; idempotent."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}.rank*")):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def leave(self, rank: int) -> None:
        """Remove what this rank has announced."""
        with contextlib.suppress(OSError):
            os.unlink(self._of(rank))

    def find(self, limit: float) -> tuple[str, str]:
        """Where rank 0 listens, and its token; blocks until it has come, for `limit` seconds at most.

        Raises:
            ExternalError: it did not come.
        """
        deadline = Deadline(SYSTEM_CLOCK.monotonic() + limit)
        while not deadline.passed():
            known = self._read()
            if known:
                return known["address"], known["token"]
            time.sleep(_PERIOD)
        raise ExternalError(
            f"rank 0 has not come within {limit:g} s: its pytest has ended, or has no tests on ranks, or is"
            " on another machine"
        )

    def _of(self, rank: int) -> Path:
        return self.path.with_suffix(f".rank{rank}")

    def _write(self, path: Path, **told: str) -> None:
        directory = path.parent
        directory.mkdir(mode=0o700, exist_ok=True)
        if os.stat(directory).st_uid != os.getuid():
            raise ExternalError(f"{directory} belongs to another user, and ranks are to meet there")
        own = this_process()
        draft = path.with_suffix(f".draft{os.getpid()}")
        draft.write_text(json.dumps({**told, "writer": [own.pid, own.started]}), encoding="utf-8")
        os.replace(draft, path)

    def _read(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):  # Not there.
            return {}
        return {} if Process(*known["writer"]).ended() else known
