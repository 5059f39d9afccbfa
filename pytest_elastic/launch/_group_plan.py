"""Plan of a group: what it shall be, where its guardian comes from, its ports and files, and its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_elastic.launch._debugger import OpenTerminal
from pytest_elastic.launch._machines import Machines
from pytest_elastic.launch._surroundings import Surroundings
from pytest_elastic.multiprocessing import Channel, Destination, Inotify, RankExited, RankStart
from pytest_elastic.pristine import socket
from pytest_elastic.report import Raised

LIVE = "live.log"  # Of a rank: what it shows at once, whatever is captured.
LOOPBACK = "127.0.0.1"
_LEAST = 0.1  # Of the time for a start.


class Launcher(Protocol):
    """Where guardians come from."""

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Fork a guardian that starts these ranks."""

    def close(self) -> bool:
        """End it, and every group of it; bounded.  Whether it ended by itself: else it was killed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a group shall be.

    Attributes:
        nprocs: how many ranks.
        directory: for the ranks' files; must exist.
        surroundings: of the ranks.
        live: whether lines are shown as they are written.
        past_capture: where lines are shown, in place of `sys.stdout` and `sys.stderr`; if they are not, then
            those that a rank writes to its `LIVE`.
        start_timeout: seconds until every rank must be ready.
        torch_threads: see `RankJob`.
        clock: of the store's timeouts: `"auto"` lets them pass at once where nothing else can happen,
            `"real"` waits for them.
        terminal: for debuggers in the ranks.
        debugging_stops_clocks: whether deadlines and timers stand still while one is open.
        test: see `RankJob`.
        host: the interface on which ranks connect, where the launcher cannot hand them descriptors; `""`
            where it can.
        master: the address of rank 0's machine, where that is not this one; its port is free here, and there
            by chance.
        collectives: see `RankJob`.
        how: the start method and why it was taken, in words.
        lost: what a fork has lost, in words; `""` for nothing.
        late: `how` -> how many groups in a row were not ready in time; the groups of a run share it.
        spare: see `OutputTimes`; likewise.
        machines: on which the ranks run.
    """

    nprocs: int
    directory: Path
    surroundings: Surroundings = field(default_factory=Surroundings)
    live: bool = False
    past_capture: Destination | None = None
    start_timeout: float = 60.0
    torch_threads: int = 1
    clock: str = "auto"
    terminal: OpenTerminal = nullcontext
    debugging_stops_clocks: bool = True
    test: str = ""
    host: str = ""
    master: str = ""
    collectives: str = "check"
    how: str = ""
    lost: str = ""
    late: Counter[str] = field(default_factory=Counter)
    spare: list[Inotify] | None = None
    machines: Machines = field(default_factory=Machines)

    @property
    def start_limit(self) -> float:
        """Seconds for this start: half of them after each that was late, so that a run comes to its end."""
        return self.start_timeout * max(0.5 ** self.late[self.how], _LEAST)

    def shown(self, outs: dict[int, str], errs: dict[int, str]) -> tuple[dict[int, str], dict[int, str]]:
        """The files that are shown, by rank; makes `LIVE`: a rank that has none knows that nobody looks.

        Args:
            outs, errs: files of the ranks' output, in directories that exist.
        """
        if self.inherits_output:
            return {}, {}
        files = {rank: Path(path).with_name(LIVE) for rank, path in outs.items()}
        if self.live:
            for rank, path in files.items():
                path.symlink_to(outs[rank])
            return outs, errs
        if self.past_capture is None:
            return {}, {}
        for path in files.values():
            path.touch()
        return {rank: str(path) for rank, path in files.items()}, {}

    @property
    def inherits_output(self) -> bool:
        """Whether ranks write to the streams of this process.

        Raises:
            ValueError: they are to, and start where those are not.
        """
        inherits = self.surroundings.output == "inherit"
        if inherits and self.host:
            raise ValueError("Surroundings(output='inherit'): ranks under another launcher write files")
        return inherits

    def described(self) -> list[tuple[str, str]]:
        """(name, value) of what the ranks run in, for reports."""
        import platform  # Only now: most runs need no report.

        version = f"{platform.python_implementation()} {platform.python_version()}"
        return [
            ("start method", self.how),
            ("clock", self.clock),
            ("collectives", self.collectives),
            ("python", f"{version}, {platform.platform()}"),
            ("files of the ranks", str(self.directory)),
            *self.surroundings.env.items(),
        ]

    def environments(self, port: int, errors: Mapping[int, str]) -> dict[int, dict[str, str]]:
        """What is added to the environment of each rank: torch elastic's variables, and the plan's own.

        Args:
            port: reserved for them.
            errors: rank -> file for its error.
        """
        world = {"WORLD_SIZE": str(self.nprocs), "TORCHELASTIC_RUN_ID": self.directory.name}
        common = {**world, "MASTER_ADDR": self.master or self.host or LOOPBACK, "MASTER_PORT": str(port)}
        return {
            rank: {
                **common,
                **dict.fromkeys(("RANK", "PYTEST_ELASTIC_RANK"), str(rank)),
                **self.machines.place_of(rank, self.nprocs),
                "TORCHELASTIC_ERROR_FILE": error,
                **self.surroundings.env,
            }
            for rank, error in errors.items()
        }


@dataclass(slots=True)
class Answers:
    """What came of one `collect`: every rank is in exactly one of the three.

    Attributes:
        replies: what the rank sent.
        exits: it ended instead.
        silent: neither, when the time was over.
        raised: what ranks told of their failure ahead of a report, which may not have come.
        expired: whether it was the deadline; else the siblings' period.
    """

    replies: dict[int, Any] = field(default_factory=dict)
    exits: dict[int, RankExited] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)
    raised: dict[int, Raised] = field(default_factory=dict)
    expired: bool = False


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


def reserve_port(host: str = "") -> socket.socket:
    """A port of this interface, the loopback by default, that is ours but listens to nobody.

    With SO_REUSEADDR on both sides a server may bind it while we hold it, since we do not listen; the
    kernel gives it to nobody who did not ask for it by number.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host or LOOPBACK, 0))
    return held
