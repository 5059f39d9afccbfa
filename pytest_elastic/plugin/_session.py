"""The run loop: the launchers before the first test, the end of them after the last."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_elastic.launch import Launchers
from pytest_elastic.plugin._books import wrong_books
from pytest_elastic.plugin._controller import Conductor
from pytest_elastic.plugin._launcher_hooks import HomeHooks
from pytest_elastic.plugin._marker import fail_instead, read_marker
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._preconditions import replaced_threads
from pytest_elastic.plugin._refusal import refuse
from pytest_elastic.plugin._runner import RankRunner
from pytest_elastic.plugin._stash import CONDUCTOR


def conduct(
    session: pytest.Session, items: list[pytest.Item], wanted: list[pytest.Item], launchers: Launchers
) -> Generator[None, object, object]:
    """Wrap the run loop of a session whose `items` run on ranks; `wanted`: those, and users of `elastic`."""
    if refused := wrong_books(session.config, items):
        if not hasattr(session.config, "workerinput"):
            raise pytest.UsageError(refused)
        while items:  # An error here would be one of xdist's, without words.
            fail_instead(items.pop(), refused)
    if not hasattr(session.config, "_tmp_path_factory"):
        raise pytest.UsageError(
            "tests on ranks need pytest's plugin for temporary directories: no `-p no:tmpdir`"
        )
    if other := replaced_threads():
        raise pytest.UsageError(
            f"tests on ranks need Python's own threads, and {other} has put others in their place (a"
            " monkey.patch_all() in a conftest file?): leave threads alone there, or run these tests without"
        )
    try:
        conductor = _prepare(session, items, launchers)
    except OSError as error:  # No process to be had, or no directory: other tests may need neither.
        launchers.close()
        refuse(wanted, f"ranks cannot be started: {error}", alone=len(wanted) == len(session.items))
        return (yield)
    conductor.debugging.begin()
    home = HomeHooks(session.config)
    session.config.pluginmanager.register(home)
    try:
        return (yield)
    finally:
        session.config.pluginmanager.unregister(home)
        conductor.debugging.end()
        conductor.close()


def _prepare(session: pytest.Session, items: list[pytest.Item], launchers: Launchers) -> Conductor:
    options = Options.read(session.config)
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    conductor = Conductor(session, options, launchers)
    methods = {launchers.method(read_marker(item).start_method) for item in items}
    if "fork" in methods or launchers.method(None) == "fork":
        runner = RankRunner(session, options.setup_show)
        launchers.set_zygote_aside(runner.live, runner.prepare)
    conductor.adopt(items)
    session.config.stash[CONDUCTOR] = conductor
    return conductor
