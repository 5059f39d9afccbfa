"""Cluster of Ray: where pytest has actors started, one for each rank, and in them the agents of the ranks.

It is the handle on a process that speaks to Ray (`_ray_driver`), and the meeting point of the agents: these
are told where pytest listens when they are started.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pytest_elastic import __version__
from pytest_elastic.clock import Deadline
from pytest_elastic.external._meeting_point import ExternalError, Place
from pytest_elastic.external._ray_driver import END, AgentEnded, Placed, Refused, Wish
from pytest_elastic.multiprocessing import Channel
from pytest_elastic.pristine import os, select, signal
from pytest_elastic.processes import OuterLauncher, this_machine, wait_for

_PATIENCE = 15.0  # Seconds for the driver beyond those for room, and to end.
_SHOWN = 8  # Characters of a node's number.
_LINES = 15  # Of what the driver has said.


def lacking() -> str:
    """Why Ray cannot be used here; `""` if it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed (the extra `ray` of pytest-elastic: pip install 'pytest-elastic[ray]')"
    return ""


class RayCluster:
    """Actors for the ranks of a session, each on a node.  Not thread-safe.

    Blocks until they are there.

    Args:
        wish: what is asked for.

    Attributes:
        world: as a launcher would have made it, with no rank for this process.
        nodes: rank -> its node, in words.
        master: the address of rank 0's machine; `""` where that is this one.

    Raises:
        ExternalError: there is no cluster, or no room; a node has another version; nothing is left.
    """

    def __init__(self, wish: Wish) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until the end.
        self._channel, self._pid = _start(self._said.fileno())
        self._process = os.pidfd_open(self._pid)
        self._ended: dict[int, AgentEnded] = {}
        self._patience = 0.0  # Who does not answer does not end by itself either.
        try:
            self._channel.send((this_machine(), wish))
            placed = self._answer(wish.seconds + _PATIENCE)
            self._near = [bool(node["near"]) for node in placed.nodes]
            self.master = "" if self._near[0] else str(placed.nodes[0]["address"])
            self.nodes = dict(enumerate(map(_named, placed.nodes)))
            for rank, node in enumerate(placed.nodes):
                self._compare(rank, node)
        except OSError:
            error = ExternalError(f"the process that speaks to Ray has ended{self._last_words()}")
            self.close()
            raise error from None
        except BaseException:
            self.close()
            raise
        spread = not all(self._near)
        self.world = OuterLauncher("Ray", -1, wish.size, "ray", "0", spread, placed.address)
        self._wish = wish

    def start(self, told: Mapping[str, Any], options: list[str]) -> None:
        """Have every actor start a program.

        Args:
            told: of what JSON knows: its `code`, `path` and `argv` of `sys`, its `directory`.  The code finds
                it as `told`, with its `rank`, the `size`, and `upon`: pids of its actor and of the raylet.
            options: of the interpreter.
        """
        there = {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")}
        orders = [
            {
                "told": {**told, "rank": rank, "size": len(self._near)},
                "near": near,
                "env": dict(os.environ),
                "env_there": there,
                "options": options,
                "root": self._wish.root,
            }
            for rank, near in enumerate(self._near)
        ]
        self._channel.send(orders)

    def ended(self, rank: int) -> bool:
        """Whether the program of a rank is known to have ended."""
        for message, _ in self._channel.receive():
            if isinstance(message, AgentEnded):
                self._ended[message.rank] = message
        return rank in self._ended or self._channel.closed

    def said(self, rank: int) -> str:
        """The last of what the program of a rank has said, which has ended."""
        if rank not in self._ended:
            return f"the process that speaks to Ray has ended{self._last_words()}"
        said = self._ended[rank].said.strip()
        return f"it said on {self.nodes[rank]}:\n{said}" if said else f"it said nothing on {self.nodes[rank]}"

    def close(self) -> None:
        """End the actors, and a cluster that was started for them; blocks 15 seconds at most; idempotent."""
        if self._said.closed:
            return
        with suppress(OSError):  # A stranger's fork may hold the channel open; and the driver may have ended.
            self._channel.send(END)
        self._channel.close()
        self._said.close()
        if not wait_for(self._process, select.POLLIN, self._patience):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        os.close(self._process)
        with suppress(ChildProcessError):  # Somebody else reaped our child.
            os.waitpid(self._pid, 0)

    def _answer(self, seconds: float) -> Placed:
        deadline = Deadline.after(seconds)
        while wait_for(self._channel.fileno(), select.POLLIN, deadline.remaining()):
            for message, _ in self._channel.receive():
                self._patience = _PATIENCE
                if isinstance(message, Refused):
                    raise ExternalError(f"Ray: {message.why}")
                assert isinstance(message, Placed)
                return message
            if self._channel.closed:
                raise ConnectionResetError
        raise ExternalError(f"Ray has not answered within {seconds:g} s{self._last_words()}")

    def _compare(self, rank: int, node: Mapping[str, Any]) -> None:
        where = f"{self.nodes[rank]}, where Ray would run rank {rank},"
        if not node["version"]:
            raise ExternalError(f"{where} has no pytest-elastic: {node['error']}")
        if node["version"] != __version__:
            raise ExternalError(f"{where} has pytest-elastic {node['version']}, and pytest has {__version__}")

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()[-_LINES:]
        return "\n".join(["; it said", *lines]) if lines else ""


class RayHost:
    """The meeting point of agents that a cluster starts when it is known where they meet.

    Args:
        cluster: theirs.
        told: see `RayCluster.start`; the code finds there, too, where that is: `zero`, for `Place`.
        options: of the interpreter.
    """

    def __init__(self, cluster: RayCluster, told: Mapping[str, Any], options: list[str]) -> None:
        self._cluster, self._told, self._options = cluster, told, options
        self.ended, self.said = cluster.ended, cluster.said

    def publish(self, address: str, token: str) -> None:
        """Have the agents started."""
        zero = Place(address, token, this_machine())
        self._cluster.start({**self._told, "zero": zero}, self._options)

    def withdraw(self) -> None:
        """Nothing is left there."""


def _named(node: Mapping[str, Any]) -> str:
    return f"node {node['node'][:_SHOWN]} ({node['address']})"


def _start(output: int) -> tuple[Channel, int]:
    """A fresh interpreter for the driver; the channel to it, and its pid."""
    channel, theirs = Channel.pair()
    module = f"{__package__}._ray_driver"
    code = f"import sys; sys.path[:] = {sys.path!a}; from {module} import main; main()"
    number = 3
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), number),
    ]
    try:
        # In a session of its own, and with it all of a cluster that it starts: Ctrl-C is for pytest.
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code, str(number), str(os.getpid())],
            os.environ,
            file_actions=actions,
            setsid=True,
        )
    except OSError:
        channel.close()
        raise
    finally:
        theirs.close()
    return channel, pid
