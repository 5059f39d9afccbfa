"""What ranks write, to be read while they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RankLogs:
    """The files that a rank writes; they may be read at any time.

    Attributes:
        directory: where they are.
    """

    directory: Path

    @property
    def stdout(self) -> str:
        """What it wrote to descriptor 1 so far."""
        return self._read("stdout.log")

    @property
    def stderr(self) -> str:
        """What it wrote to descriptor 2 so far."""
        return self._read("stderr.log")

    def tail(self, lines: int = 40) -> str:
        """The last lines of both."""
        return "\n".join((self.stdout + self.stderr).splitlines()[-lines:])

    def _read(self, name: str) -> str:
        path = self.directory / name
        return path.read_text("utf-8", "replace") if path.exists() else ""
