"""A session under another launcher: rank 0 runs it, the other processes start ranks for it and are quiet.

*Rules.*  A session without tests on ranks is left alone: each process runs all of it, as without this plugin.
In any other, rank 0 alone runs tests and reports.  A process that is not rank 0 holds back what it would
write to the terminal until it knows which of the two it is.  All end with the exit status of rank 0.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import pytest

from pytest_elastic import __version__
from pytest_elastic.external import (
    Agent,
    Agents,
    ExternalError,
    Guest,
    Host,
    Join,
    meeting_point,
)
from pytest_elastic.launch import Launcher, Launchers, Machines, Source, StartMethod
from pytest_elastic.multiprocessing import exit_now
from pytest_elastic.plugin._fresh import session_of
from pytest_elastic.plugin._marker import read_marker, size_of
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._runner import RankRunner
from pytest_elastic.plugin._session import launchers_of
from pytest_elastic.plugin._stash import EXTERNAL
from pytest_elastic.pristine import os, signal, threading
from pytest_elastic.processes import OuterLauncher

_LAST_TEST = 3.0  # Seconds for the test at hand, where the launcher ends the run.
_LATE = 5.0  # Seconds to meet agents of a session that ends before it began.


def configure(config: pytest.Config, world: OuterLauncher) -> None:
    """Prepare this process for its part; called before the tests are collected.

    Raises:
        pytest.UsageError: the session cannot be one on these processes.
    """
    if Options(config).launcher == "ray":
        if world.rank:
            exit_now(pytest.ExitCode.USAGE_ERROR)
        raise pytest.UsageError(inside(world))
    if getattr(config.option, "numprocesses", None) or getattr(config.option, "dist", "no") != "no":
        if world.rank:
            exit_now(pytest.ExitCode.USAGE_ERROR)
        raise pytest.UsageError(
            f"{world.name} has started {world.size} processes of pytest, each of which would hand its tests"
            " to workers of xdist: run it without -n, or with --elastic-launcher=local"
        )
    if config.getoption(Options.nprocs.flag) is None and config.getini("elastic_nprocs") is None:
        config.option.elastic_nprocs = str(world.size)
    try:
        there = meeting_point(world)
        plugin = RankZero(config, world, there) if world.rank == 0 else Listener(config, world, there)
    except ExternalError as error:
        raise pytest.UsageError(str(error)) from None
    register(config, plugin)


def inside(world: OuterLauncher) -> str:
    """Why Ray cannot start ranks for a session under another launcher."""
    return (
        f"{world.name} has started {world.size} processes of pytest, which start the ranks, and Ray was asked"
        f" to start some, too (--elastic-launcher=ray, or launcher='ray' in a marker): leave one out"
    )


def register(config: pytest.Config, plugin: Spokesman | Listener) -> None:
    """This process is the one or the other to its end."""
    config.pluginmanager.register(plugin, "pytest_elastic_external")
    config.stash[EXTERNAL] = plugin


def own(session: pytest.Session, failures: list[str]) -> Join:
    """What this process says of itself to rank 0, or compares with that."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "tests": [item.nodeid for item in session.items],
        "failed": "\n".join(failures),
    }


class Listener:
    """A plugin of a process that is not rank 0's: an agent, if there are tests on ranks.

    Args:
        world: made by the launcher.
        there: where its processes meet.
        upon: see `Agent`.
    """

    def __init__(
        self,
        config: pytest.Config,
        world: OuterLauncher,
        there: Guest,
        upon: Mapping[int, str] | None = None,
    ) -> None:
        self._config, self._world, self._upon = config, world, upon
        self._failures: list[str] = []
        self._meeting_point = there
        self._meeting_point.announce(world.rank)
        self._writer: Any = None
        if config.pluginmanager.has_plugin("terminalreporter"):
            self._writer = config.get_terminal_writer()
            self._terminal, self._writer._file = self._writer._file, io.StringIO()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Rank 0 hears of failures."""
        if report.failed:
            self._failures.append(report.longreprtext)

    def pytest_unconfigure(self) -> None:
        """The session has ended before it was known what this process is: show what there is.

        Where rank 0 may wait for it, its announcement stays, and tells that it has ended.
        """
        self.speak()
        if not self._failures:
            self._meeting_point.leave(self._world.rank)

    def speak(self) -> None:
        """Write to the terminal from now on, and what was held back; idempotent."""
        if self._writer is not None:
            held, self._writer._file = self._writer._file, self._terminal
            self._terminal.write(held.getvalue())
            self._writer = None

    def begin(self, session: pytest.Session, on_ranks: Iterable[pytest.Item]) -> NoReturn:
        """The tests are collected, and some are for ranks: be an agent to the end of this process."""
        exit_now(self._serve(session, on_ranks))

    def _serve(self, session: pytest.Session, on_ranks: Iterable[pytest.Item]) -> int:
        options, launchers = Options(self._config), launchers_of(session)
        factory: Any = self._config._tmp_path_factory  # type: ignore[attr-defined]
        given = factory._given_basetemp
        if given is not None:  # Rank 0 has it, and clears it.
            factory._given_basetemp = given.with_name(f"{given.name}-rank{self._world.rank}")
        factory.getbasetemp()  # Before the fork: else each rank made its own.
        runner = RankRunner(session, options.setup_show)
        methods = [launchers.method(read_marker(item).start_method) for item in on_ranks]
        launchers.prepare(methods, Source(runner.live, runner.prepare, lambda: session_of(self._config)))
        by_name = {method.name: method for method in (*methods, launchers.default)}
        # Ctrl-C is for rank 0.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            zero, rank = self._meeting_point.find(options.start_timeout), self._world.rank
            agent = Agent.at(zero, rank, lambda name: launchers.get(by_name[name]), self._upon)
            signal.signal(signal.SIGTERM, lambda *_: agent.hurry())
            return agent.serve(own(session, self._failures))
        except (ExternalError, OSError) as error:
            os.write(2, f"elastic: rank {self._world.rank} of {self._world.name}: {error}\n".encode())
            return pytest.ExitCode.USAGE_ERROR
        finally:
            launchers.close()


class Spokesman:
    """A plugin of the process that runs the session: it has agents start ranks, and tells how the run ends.

    Attributes:
        world: that the launcher made.
    """

    world: OuterLauncher

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._agents: Agents | None = None
        self._session: pytest.Session | None = None
        self._failures: list[str] = []
        self._left = 0  # Tests that have not run.
        self._why = ""
        self._status: int | None = None  # Of the exit, once it is known.

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What failed here is not compared."""
        if report.failed:
            self._failures.append(report.longreprtext)

    def begin(self, session: pytest.Session, on_ranks: Iterable[pytest.Item]) -> None:
        """The tests are collected, and some are for ranks."""
        self._session, self._left = session, len(session.items)

    def starts(self, item: pytest.Item | pytest.Session) -> bool:
        """Whether the launcher starts the ranks of this item, or of functions of the whole session."""
        return True

    def too_few(self, size: int) -> str:
        """Why a test cannot have so many ranks; `""` if it can."""
        fits = size <= self.world.size
        return "" if fits else f"needs {size} ranks, and {self.world.name} started {self.world.size}"

    def gather(self) -> None:
        """Meet the agents; blocks as long as ranks may take to start.

        Raises:
            pytest.UsageError: they cannot work as one session.
        """
        assert self._agents is not None
        try:
            self._agents.gather(Options(self._config).start_timeout)
        except ExternalError as error:
            raise pytest.UsageError(str(error)) from None

    @property
    def host(self) -> str:
        """The interface on which ranks connect."""
        assert self._agents is not None
        return self._agents.host

    @property
    def master(self) -> str:
        """See `Plan`."""
        return ""

    @property
    def machines(self) -> Machines:
        """Where ranks run."""
        assert self._agents is not None
        return Machines(self._agents.away)

    def launcher(self, method: StartMethod, launchers: Launchers) -> Launcher:
        """The launcher of ranks on all processes."""
        assert self._agents is not None
        return self._agents.launcher(method.name, launchers.get(method) if self.world.rank == 0 else None)

    def pytest_runtest_logfinish(self) -> None:
        """One test less."""
        self._left -= 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The exit status is known."""
        self._status = int(exitstatus)

    def leave(self) -> None:
        """Tell all others, now that the report is written: a launcher may end all when one has failed."""
        if self._agents is not None:
            self._agents.leave(pytest.ExitCode.INTERNAL_ERROR if self._status is None else self._status)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what did not run."""
        if self._why:
            number = f"{self._left} test{'s'[: self._left != 1]}"
            left = f"{number} did not run" if self._left else "all tests had run"
            terminalreporter.write_line(f"elastic: {self._why}; {left}", red=True)

    def _stop(self, why: str) -> None:
        assert self._session is not None
        if not self._why:
            self._why = self._session.shouldfail = why


class RankZero(Spokesman):
    """That of rank 0's process."""

    def __init__(self, config: pytest.Config, world: OuterLauncher, there: Host) -> None:
        super().__init__(config)
        self.world, self._meeting_point, self._met = world, there, False

    def begin(self, session: pytest.Session, on_ranks: Iterable[pytest.Item]) -> None:
        """Those with more ranks than there are skip.

        Raises:
            pytest.UsageError: one is to have Ray start its ranks.
        """
        super().begin(session, on_ranks)
        self._agents = Agents(self.world, self._meeting_point, own(session, self._failures), self._stop)
        if any(read_marker(item).launcher == "ray" for item in on_ranks):
            raise pytest.UsageError(inside(self.world))
        default = Options(self._config).nprocs
        for item in on_ranks:
            if why := self.too_few(size_of(item, default)):
                item.add_marker(pytest.mark.skip(reason=why))
        with suppress(ValueError):  # Not the main thread.
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._terminate)

    def gather(self) -> None:
        """The agents need not be met any more."""
        self._met = True
        super().gather()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Those that have not met it wait for it."""
        if self._agents is None:
            self._meeting_point.withdraw()
            return
        if not self._met:
            with suppress(ExternalError):
                self._agents.gather(_LATE)
        self.leave()

    def _terminate(self, number: int, frame: object) -> None:
        """The launcher ends the run: after the test at hand, if that is soon over."""
        if self._status is not None:  # It is over.
            return
        self._stop(f"{self.world.name} has ended the run by SIGTERM")
        interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
        timer = threading.Timer(_LAST_TEST, interrupt)
        timer.daemon = True
        timer.start()
