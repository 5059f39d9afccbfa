"""A fresh interpreter on its way to be a rank or a zygote: it repeats the session up to the tests.

It reports nothing.

*Rules.*  What a run does once is done by pytest itself: files of reports are not opened again, the cache is
not cleared, and a session that does not come to its tests ends here, before anything is written at its end.
The hooks of conftest files run again, since ranks need the state that they make; where one of those that
begin a session asks for a port or a file that pytest itself holds already, the rank goes on without.
"""

from __future__ import annotations

import abc
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_elastic.launch import RankGroup, Session, measure, measured
from pytest_elastic.multiprocessing import RankStart, exit_now, open_streams, set_environment
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._runner import RankRunner
from pytest_elastic.plugin._stash import PATH

# Options that have a file opened or removed when a run begins: of pytest, -reportlog, -html and allure.
_ONCE = ("log_file", "cacheclear", "report_log", "htmlpath", "allure_report_dir", "clean_alluredir")


def session_of(config: pytest.Config, files: frozenset[str] | None = None) -> Session:
    """The session in which fresh interpreters collect what this run collected: of these files, or of all."""
    arguments = [str(argument) for argument in config.invocation_params.args]
    if not Options(config).setup_show:  # Which is written through the terminal's reporter.
        arguments += ["-p", "no:terminalreporter"]
    for plugin, argument in (("xdist", "-n0"), ("_cov", "--no-cov")):
        if config.pluginmanager.has_plugin(plugin) or config.pluginmanager.has_plugin(f"pytest{plugin}"):
            arguments.append(argument)
    seed = getattr(config.option, "randomly_seed", None)
    if seed is not None:  # pytest-randomly has drawn one.
        arguments.append(f"--randomly-seed={seed}")
    state = {"worker": getattr(config, "workerinput", None), "coverage": measured()}
    directory = str(config.invocation_params.dir)
    return Session(arguments, directory, config.stash[PATH], sys.argv[0], state, files)


def check_collected(group: RankGroup, nodeid: str) -> None:
    """Fail if a fresh interpreter has not collected this test, and list what it has collected."""
    lacking = sorted(rank for rank, tests in group.tests.items() if tests is not None and nodeid not in tests)
    if not lacking:
        return
    said = [f"fresh interpreters (start method spawn) did not collect {nodeid}, but in its place"]
    for rank in lacking:
        same = [
            test for test in group.tests[rank] or () if test.partition("[")[0] == nodeid.partition("[")[0]
        ]
        said.append(f"  rank {rank}: {', '.join(same[:5]) or 'nothing; its log ends:'}")
        said += [] if same else [group.logs[rank].tail()]
    said.append("ids must be the same in each: of nothing random, and of no order of a set or of addresses")
    pytest.fail("\n".join(said), pytrace=False)


class Repetition:
    """A plugin of an interpreter that collects again, registered before the conftest files are loaded.

    Args:
        state, files: see `Session`.
    """

    def __init__(self, state: dict[str, Any], files: frozenset[str] | None = None) -> None:
        self._state, self._files, self._skipped = state, files, list[str]()
        measure(state["coverage"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        """All arguments were read, and nothing is configured yet."""
        self._config = config
        for name in _ONCE:
            if hasattr(config.option, name):
                setattr(config.option, name, "")
        if self._state["worker"] is not None:  # Of xdist, whose fixtures tell workers apart by it.
            config.workerinput = self._state["worker"]  # type: ignore[attr-defined]
        for hook in (config.hook.pytest_configure, config.hook.pytest_sessionstart):
            for implementation in hook.get_hookimpls():
                place = getattr(implementation.plugin, "__file__", None) or ""
                if Path(place).name == "conftest.py" and not (
                    implementation.wrapper or implementation.hookwrapper
                ):
                    tolerant = self._tolerant(implementation.function, place)
                    implementation.function = tolerant  # type: ignore[misc]
        if self._files is not None:  # A test of another file would not be found.
            here, root, files = config.invocation_params.dir, config.rootpath, self._files
            wanted = {(root / file).resolve() for file in files}
            config.args[:] = [
                argument
                for argument in config.args
                if "::" not in argument or (here / argument.partition("::")[0]).resolve() in wanted
            ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        """Nothing is in a file that is not wanted, which is not imported."""
        if not isinstance(collector, pytest.File) or self._wants(collector.nodeid):
            return None
        return pytest.CollectReport(collector.nodeid, "passed", None, [])

    def _wants(self, file: str) -> bool:
        return self._files is None or file in self._files

    def _tolerant(self, function: Callable[..., Any], place: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> None:
            try:
                function(*args)
            except OSError as error:
                self._skipped.append(
                    f"{place}: {function.__name__} failed in a rank, after pytest itself: {error}"
                )

        return call

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Print errors of the collection: no other report of this process is shown."""
        if report.failed:
            print(report.longreprtext, file=sys.stderr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End here if no test will run, before other plugins write their reports."""
        capture: Any = session.config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()  # What it holds may say why.
        exit_now(int(exitstatus) or 1)


class FreshSession(Repetition, abc.ABC):
    """That of one that has another purpose than the session once the tests are collected."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.state, session.files)

    @abc.abstractmethod
    def become(self, session: pytest.Session) -> NoReturn:
        """The tests are collected: be what this is for, to the end of this process."""


class FreshRank(FreshSession):
    """Of one that is to be a rank."""

    def __init__(self, start: RankStart, session: Session) -> None:
        super().__init__(session)
        self._start = start

    def become(self, session: pytest.Session) -> NoReturn:
        """Be the rank."""
        set_environment(self._start.env)  # As in a fork: after what conftest files have set.
        runner = RankRunner(session, Options(session.config).setup_show, fresh=True)
        runner.prepare()
        open_streams()
        runner.remarks = self._skipped
        exit_now(runner.live(self._start))
