"""Ray as a launcher: pytest runs the session and has agents started by Ray, one on a node for each rank.

*Rules.*  There are as many agents as the largest test on Ray has ranks, or as many as a test has that does
not say; they last as long as the session.  An agent is pytest again, with this run's arguments: it collects
the same tests, and starts its rank of each by the test's start method, as under mpirun.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from pytest_elastic.external import Agents, ExternalError, Place, RayCluster, RayHost, Wish, lacking
from pytest_elastic.launch import interpreter_options
from pytest_elastic.plugin._external import Listener, Spokesman, own, register
from pytest_elastic.plugin._fresh import Repetition, session_of
from pytest_elastic.plugin._marker import read_marker, size_of
from pytest_elastic.plugin._options import Options
from pytest_elastic.pristine import os
from pytest_elastic.processes import OuterLauncher, die_with_parent

_CODE = """\
import types, pytest
start = types.ModuleType("pytest_elastic_agent")
start.told = told
sys.exit(pytest.main(plugins=[start]))
"""


class RayAgent(Repetition):
    """A plugin of pytest as an agent.

    Args:
        told: see `RayHost`; the `state` of the session.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["state"])
        actor, raylet = told["upon"]
        die_with_parent(actor)
        self._told, self._raylet = told, os.pidfd_open(raylet)

    def configure(self, config: pytest.Config) -> None:
        """The process is an agent from now on."""
        told = self._told
        world = OuterLauncher("Ray", told["rank"], told["size"], "ray", "0")
        upon = {self._raylet: "its raylet has ended"}
        register(config, Listener(config, world, _Told(Place(*told["zero"])), upon))


class _Told:
    """A meeting point whose place an agent was told when it was started."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def find(self, limit: float) -> Place:
        return self._place

    def announce(self, rank: int) -> None:
        """Nothing: its actor watches it."""

    def leave(self, rank: int) -> None:
        """Nothing was told."""


def with_ray(config: pytest.Config, external: Spokesman | Listener | None) -> Spokesman | Listener:
    """The plugin of a session in which Ray starts ranks; `external` is the one that there is, if any."""
    if external is None:
        external = RaySpokesman(config)
        register(config, external)
    return external


class RaySpokesman(Spokesman):
    """That of a session some of whose tests run on ranks that Ray starts."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._cluster: RayCluster | None = None
        self._size = 0

    def starts(self, item: pytest.Item | pytest.Session) -> bool:
        """By its marker, else by the option."""
        asked = read_marker(item).launcher if isinstance(item, pytest.Item) else None
        return (asked or Options(self._config).launcher) == "ray"

    def begin(self, session: pytest.Session, on_ranks: Iterable[pytest.Item]) -> None:
        """How many there have to be."""
        super().begin(session, on_ranks)
        default = Options(self._config).nprocs
        sizes = [size_of(item, default) for item in on_ranks if self.starts(item)]
        self._size = max(sizes if not self.starts(session) else [*sizes, default])

    def gather(self) -> None:
        """Have Ray start the agents; blocks for the time that ranks may take to start, twice.

        Raises:
            pytest.UsageError: there is no cluster, or no room; or they cannot work as one session.
        """
        options = Options(self._config)
        if why := lacking():
            raise pytest.UsageError(why)
        assert self._session is not None
        root = str(self._config.rootpath)
        wish = (options.ray_address, options.ray_strategy, options.ray_resources, options.start_timeout, root)
        try:
            self._cluster = cluster = RayCluster(Wish(self._size, *wish))
        except ExternalError as error:
            raise pytest.UsageError(str(error)) from None
        self.world = cluster.world
        session = session_of(self._config)
        told = {
            "code": _CODE,
            "state": session.state,
            "path": session.path,
            "argv": [session.program, *session.arguments],
            "directory": session.directory,
        }
        there = RayHost(cluster, told, interpreter_options())
        self._agents = Agents(
            self.world, there, own(self._session, self._failures), self._stop, cluster.nodes
        )
        super().gather()

    @property
    def master(self) -> str:
        """Where Ray has placed rank 0."""
        assert self._cluster is not None
        return self._cluster.master

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """The run is over."""
        self.leave()
        if self._cluster is not None:
            self._cluster.close()
