"""The run loop: the launchers before the first test, the end of them after the last."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_elastic.launch import FreshInterpreters, Launchers, start_of_this_interpreter
from pytest_elastic.multiprocessing._guardian import exit_now
from pytest_elastic.multiprocessing._kernel import supported
from pytest_elastic.plugin._books import wrong_books
from pytest_elastic.plugin._census import replaced_threads
from pytest_elastic.plugin._controller import Conductor
from pytest_elastic.plugin._home import HomeHooks
from pytest_elastic.plugin._marker import fail_instead, read_marker
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._rank import RankRunner
from pytest_elastic.plugin._stash import CONDUCTOR


def conduct(
    session: pytest.Session, items: list[pytest.Item], launchers: Launchers
) -> Generator[None, object, object]:
    """Wrap the run loop of a session whose `items` run on ranks (or whose tests ask for `elastic`)."""
    if refused := wrong_books(session.config, items):
        if not hasattr(session.config, "workerinput"):
            raise pytest.UsageError(refused)
        while items:  # An error here would be one of xdist's, without words.
            fail_instead(items.pop(), refused)
    options = Options.read(session.config)
    missing = supported()
    if missing:
        raise pytest.UsageError(f"tests on ranks need Linux 5.3 or newer with /proc: {missing}")
    if not hasattr(session.config, "_tmp_path_factory"):
        raise pytest.UsageError(
            "tests on ranks need pytest's plugin for temporary directories: no `-p no:tmpdir`"
        )
    if other := replaced_threads():
        raise pytest.UsageError(
            f"tests on ranks need Python's own threads, and {other} has put others in their place (a"
            " monkey.patch_all() in a conftest file?): leave threads alone there, or run these tests without"
        )
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    conductor = Conductor(session, options, launchers)
    methods = {launchers.method(read_marker(item).start_method) for item in items}
    if "fork" in methods or launchers.method(None) == "fork":
        runner = RankRunner(session, options.setup_show)
        launchers.set_zygote_aside(runner.live, runner.prepare)
    conductor.adopt(items)
    session.config.stash[CONDUCTOR] = conductor
    conductor.debugging.begin()
    home = HomeHooks(session.config)
    session.config.pluginmanager.register(home)
    try:
        return (yield)
    finally:
        session.config.pluginmanager.unregister(home)
        conductor.debugging.end()
        conductor.close()


def interpreters(config: pytest.Config, path: list[str]) -> FreshInterpreters:
    """Fresh interpreters that collect what this run collected."""
    arguments = list(config.invocation_params.args)
    if not Options.read(config).setup_show:  # Which is written through the terminal's reporter.
        arguments += ["-p", "no:terminalreporter"]
    for plugin, argument in (("xdist", "-n0"), ("_cov", "--no-cov")):
        if config.pluginmanager.has_plugin(plugin) or config.pluginmanager.has_plugin(f"pytest{plugin}"):
            arguments.append(argument)
    return FreshInterpreters(
        [str(argument) for argument in arguments], str(config.invocation_params.dir), path
    )


def be_rank(session: pytest.Session) -> None:
    """In a fresh interpreter that collected the tests: be the rank.  Returns in any other process."""
    start = start_of_this_interpreter()
    if start is not None:
        runner = RankRunner(session, Options.read(session.config).setup_show)
        runner.prepare()
        exit_now(runner.live(start))
