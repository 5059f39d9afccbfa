"""`RayContext`: functions or programs as ranks, each started by an actor of Ray on a node of its cluster.

*Theory of operation.*  An actor starts an agent, a plain interpreter without pytest, and the agent starts its
rank by a zygote and a guardian of its own.  What a function is called with comes to its rank by a connection,
and its result goes back by it.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytest_elastic import __version__
from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.external._agent import Agent
from pytest_elastic.external._agents import Agents
from pytest_elastic.external._meeting_point import ExternalError, Place
from pytest_elastic.external._orders import Join
from pytest_elastic.external._ray_cluster import RayCluster, RayHost, lacking
from pytest_elastic.external._ray_driver import Wish
from pytest_elastic.launch import Machines, Rendezvous, connect, interpreter_options, keep_alive
from pytest_elastic.multiprocessing import (
    START_LIMIT,
    Channel,
    Group,
    PContext,
    RankChannels,
    RankExited,
    RankStart,
    Zygote,
    as_arguments,
    call_opened,
    find_program,
    forget_launcher,
    packed,
    unpacking,
)
from pytest_elastic.pristine import os, pickle, socket
from pytest_elastic.processes import die_with_parent, replace_program

STRATEGIES = ("SPREAD", "STRICT_PACK")
_CHANNEL = b"c"  # What a rank connects for.
_FETCHING = 0.1  # Seconds from one look at the files of other machines to the next.
_CODE = "from pytest_elastic.external import serve; sys.exit(serve(told))"


class RayContext(PContext):
    """A process group whose ranks Ray places on the nodes of a cluster.

    A function is called as `entrypoint(*args[rank])`, and is sent as `multiprocessing` would, without what
    holds descriptors; text is a program, run without a shell.  After `envs` come torch's arguments
    (`logs_specs, log_line_prefixes, duplicate_stdout_filters, duplicate_stderr_filters`) or the maps of its
    documentation page.  A stream that goes to no file is shown here.  The end of a run takes Ray a second or
    two more, and 15 at most.

        context = RayContext("n", pow, {0: (2, 3)}, {0: {}}, DefaultLogsSpecs(), resources={"CPU": 1})
        context.start()
        assert context.wait(timeout=60).return_values == {0: 8}  # Seconds.

    Args:
        address: of the cluster; `auto` for `RAY_ADDRESS`, else one that runs on this machine, else a new one.
        strategy: `SPREAD` or `STRICT_PACK`.
        resources: of each rank, `{"CPU": 1}` by default.

    Raises:
        TypeError, RuntimeError, ValueError: arguments that do not fit; see `start_processes`.
        ExternalError: by `start`: Ray is not installed, there is no cluster, or no room within 60 seconds.
    """

    kind = "RayContext"

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any] | str,
        args: Mapping[int, Any],
        envs: Mapping[int, Mapping[str, str]],
        *logs: Any,
        address: str = "auto",
        strategy: str = "SPREAD",
        resources: Mapping[str, float] | None = None,
        **named: Any,
    ) -> None:
        if strategy not in STRATEGIES:
            allowed = ", ".join(STRATEGIES)
            raise ValueError(f"strategy {strategy!r} is not allowed; it must be one of {allowed}")
        super().__init__(name, entrypoint, args, envs, *logs, **named)
        self.binary = isinstance(entrypoint, str)
        wanted = dict(resources or {"CPU": 1.0})
        self._wish = Wish(self.nprocs, address, strategy, wanted, START_LIMIT, os.getcwd())
        self._home = Path(tempfile.mkdtemp(prefix="pytest_elastic_ray_"))
        self._directories = {rank: self._directory(rank) for rank in self.envs}
        self._channels = RankChannels(self.envs, self.loop)
        self._calls: dict[int, bytes] = {}
        self._cluster: RayCluster | None = None
        self._agents: Agents | None = None
        self._rendezvous: Rendezvous | None = None
        self._machines = Machines()
        self._fetching = self.loop.alarm(self._fetch)

    def _directory(self, rank: int) -> Path:
        """Where the files of a rank are; a stream without one gets one there, and is shown."""
        error = self.error_files.get(rank, os.devnull)
        directory = self._home / str(rank) if error == os.devnull else Path(error).parent
        directory.mkdir(exist_ok=True)
        dest = self._plan.dest
        streams = (("stdout", dest.stdouts, dest.tee_stdouts), ("stderr", dest.stderrs, dest.tee_stderrs))
        for name, files, shown in streams:
            if not files[rank]:
                files[rank] = shown[rank] = str(directory / f"{name}.log")
        return directory

    def _start(self) -> Group:
        if why := lacking():
            raise ExternalError(why)
        if not self.binary:
            for rank, arguments in self.args.items():
                self._calls[rank] = packed(f"{self.name}{rank}", (self.entrypoint, as_arguments(arguments)))
        cluster = self._cluster = RayCluster(self._wish)
        told = {"code": _CODE, "path": sys.path, "argv": sys.argv, "directory": os.getcwd()}
        there = RayHost(cluster, told, interpreter_options())
        self._agents = Agents(cluster.world, there, _join(), lambda words: None, cluster.nodes)
        self._agents.gather(START_LIMIT)
        self._machines = Machines(self._agents.away)
        listen = partial(Rendezvous, self.loop, self._agents.host, _CHANNEL, self._refusal, self._admit)
        self._rendezvous = self.loop.call(listen)
        launcher = self._agents.launcher(self.kind, None)
        group = Group(launcher.start_group(self._starts(self._job)), self.loop)
        group.is_silent, group.on_exit = self._channels.is_silent, self._note_exit
        self.loop.call(self._fetch)
        return group

    def _job(self, rank: int) -> _Job:
        assert self._rendezvous is not None
        way = _Way(self._rendezvous.address, self._rendezvous.token)
        program = [str(self.entrypoint), *map(str, as_arguments(self.args[rank]))] if self.binary else []
        return _Job(str(self._directories[rank]), way, program)

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return (True, None) if self.binary else self._channels.returned(rank, pickle.loads)

    def _release(self) -> None:
        self._channels.close()
        self._fetching.at = float("inf")
        if self._rendezvous is not None:
            self.loop.call(self._rendezvous.close)
        if self._agents is not None:
            self._agents.leave(0)
        if self._cluster is not None:
            self._cluster.close()
        shutil.rmtree(self._home, ignore_errors=True)

    # In the loop.

    def _refusal(self, rank: int, purpose: bytes) -> str:
        if rank not in self._calls:
            return f"there is no rank {rank}"
        return f"rank {rank} is connected already" if self._channels.has(rank) else ""

    def _admit(self, rank: int, purpose: bytes, end: socket.socket) -> None:
        keep_alive(end)
        self._channels.adopt(rank, end)
        self._channels.send(rank, self._calls[rank])

    def _note_exit(self, exited: RankExited) -> None:
        self._machines.of(exited.rank).fetch(self._directories[exited.rank])

    def _fetch(self) -> None:
        """Bring what ranks on other machines have written here, now and again."""
        if self._machines.away:
            self._machines.fetch(self._directories)
            self._fetching.at = SYSTEM_CLOCK.monotonic() + _FETCHING


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a rank finds its context; `ahead`: by how many seconds the context's clock is ahead."""

    address: str
    token: str
    ahead: float = 0.0


@dataclass(frozen=True, slots=True)
class _Job:
    """What a rank does: run a program, or call what it is told on its way.

    Attributes:
        directory: of its files.
    """

    directory: str
    place: _Way
    program: list[str]

    def __call__(self, start: RankStart) -> int:
        """In the forked rank."""
        if self.program:
            env = {"PYTHONUNBUFFERED": "1", **os.environ}
            replace_program(find_program(self.program[0], env), self.program, env)
        forget_launcher()
        end = connect(self.place.address, self.place.token, _CHANNEL, start.rank)
        data, _ = Channel(end).wait()
        return call_opened(end.detach(), unpacking(data))


def _join() -> Join:
    return {
        "version": __version__,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "tests": [],
        "failed": "",
    }


def serve(told: Mapping[str, Any]) -> int:
    """The program of an agent that starts functions or programs; the exit status.

    Args:
        told: see `RayHost`.
    """
    actor, raylet = told["upon"]
    die_with_parent(actor)
    zygote = Zygote.spawn("pytest_elastic.multiprocessing", "do_job")
    try:
        upon = {os.pidfd_open(raylet): "its raylet has ended"}
        place = Place(*told["zero"])
        return Agent.at(place, told["rank"], lambda method: zygote, upon).serve(_join())
    finally:
        zygote.close()
