"""Other plugins: their state is shared with the ranks, or the run says that it is not.

*Rules.*  What a rank needs to know of tests before its own goes with the order to run it: ranks were forked
before the first test.  What a rank records for a report that pytest writes at the end comes home with the
phase.  Files of reports are written by pytest only.  Where none of that can be, the run says so at its start.
None of these plugins is imported: each is known by the objects that it put on pytest's.

Some plugins note in pytest's process which snapshots or lines tests have used, and at the end delete, rewrite
or leave out the rest.  They see a test on ranks pass without having used anything.  A run that asks for it is
refused as a whole before the first test, and the plugin is switched off first, since it acts at the end of a
refused run too.  Ranks compare snapshots and never write them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_elastic.pristine import os
from pytest_elastic.report import PhaseReport

_APART = {  # By fixture.
    "benchmark": "timings that `benchmark` takes on ranks are not in its table",
    "json_metadata": "what ranks write to `json_metadata` is not in the report",
    "extra": "what ranks append to `extra` is not in the report",
    "extras": "what ranks append to `extras` is not in the report",
}
_ATTRIBUTE = "dependencyManager"  # Of pytest-dependency, on the nodes above an item: outcomes of tests.


def words(config: pytest.Config, items: Iterable[pytest.Item]) -> list[str]:
    """Lines at the start of the run about plugins that see less of these tests on ranks."""
    used = {name for item in items for name in getattr(item, "fixturenames", ())}
    found = [text for name, text in _APART.items() if name in used]
    if config.pluginmanager.has_plugin("allure_listener"):
        found.append("steps and attachments that are made on ranks are not in allure's report")
    return [f"elastic: {text}" for text in found]


def logs_live(config: pytest.Config) -> bool:
    """Whether pytest shows what is logged while tests run."""
    if not config.pluginmanager.has_plugin("logging-plugin"):
        return False
    return bool(config.getini("log_cli")) or config.getoption("log_cli_level") is not None


def outcomes_before(item: pytest.Item) -> dict[int, Any]:
    """In the launcher: outcomes of earlier tests, by the depth of the node above the item."""
    nodes = enumerate(item.listchain())
    return {depth: getattr(node, _ATTRIBUTE) for depth, node in nodes if hasattr(node, _ATTRIBUTE)}


def take_outcomes(item: pytest.Item, known: dict[int, Any]) -> None:
    """In a rank."""
    for depth, manager in known.items():
        setattr(item.listchain()[depth], _ATTRIBUTE, manager)


def run_once(config: pytest.Config) -> None:
    """In a rank: pytest-retry runs a test again in a hook, which is for pytest to do, with all ranks."""
    hook = config.hook.pytest_runtest_makereport
    for implementation in hook.get_hookimpls():
        if implementation.function.__module__.startswith("pytest_retry."):
            hook._remove_plugin(implementation.plugin)


def write_no_files() -> None:
    """In a rank: allure writes a file for each result."""
    manager: Any = getattr(sys.modules.get("allure_commons"), "plugin_manager", None)
    for plugin in manager.get_plugins() if manager is not None else ():
        if hasattr(plugin, "report_result"):
            manager.unregister(plugin)


def recorded(item: pytest.Item) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """In a rank: attributes of the test, and new properties of the suite, for the XML report."""
    xml = _xml(item.config)
    if xml is None:
        return {}, []
    properties, xml.global_properties = xml.global_properties, []
    if "record_xml_attribute" not in getattr(item, "fixturenames", ()):
        return {}, properties
    return dict(xml.node_reporter(item.nodeid).attrs), properties


def take_recorded(item: pytest.Item, reports: list[PhaseReport]) -> None:
    """In the launcher: a property that ranks give different values has the rank's number in its name."""
    xml = _xml(item.config)
    if xml is None:
        return
    for report in reversed(reports):
        for name, value in report.attributes.items():
            xml.node_reporter(item.nodeid).add_attribute(name, value)
    values: dict[str, set[str]] = {}
    for report in reports:
        for name, value in report.suite_properties:
            values.setdefault(name, set()).add(value)
    for report in reports:
        for name, value in report.suite_properties:
            named = name if len(values[name]) == 1 else f"{name}[rank{report.rank}]"
            if (named, value) not in xml.global_properties:
                xml.add_global_property(named, value)


def _xml(config: pytest.Config) -> Any:
    """Pytest's writer of JUnit's XML, where one is asked for."""
    if not config.getoption("xmlpath", None):  # Each phase asks on each rank, and a search takes its time.
        return None
    plugins = config.pluginmanager.get_plugins()
    return next((plugin for plugin in plugins if hasattr(plugin, "add_global_property")), None)


_SYRUPY = ("update_snapshots", "update_new_snapshots_only")
_INLINE = {"create", "fix", "review", "trim", "update"}


def wrong_books(config: pytest.Config, items: list[pytest.Item]) -> str:
    """Why snapshots or selections would be lost in a run with these tests on ranks; `""` if none would.

    The plugin that would lose them has been switched off.
    """
    if not items:
        return ""
    option, manager = config.option, config.pluginmanager
    using = [item for item in items if "snapshot" in getattr(item, "fixturenames", ())]
    updates = any(getattr(option, name, False) for name in _SYRUPY)
    if hasattr(option, _SYRUPY[0]) and (using or updates):
        complete = hasattr(option, "disable_unused_snapshots")
        option.disable_unused_snapshots = option.warn_unused_snapshots = True
        if updates and (using or not complete):
            only_compare(config)
            return _refusal("syrupy can neither write nor keep the snapshots", using or items)
    flags = getattr(option, "inline_snapshot", None) or os.environ.get("INLINE_SNAPSHOT_DEFAULT_FLAGS", "")
    if _INLINE & set(flags.split(",")) and not hasattr(config, "workerinput"):  # It is off in xdist's.
        for plugin in manager.get_plugins():
            if type(plugin).__module__.startswith("inline_snapshot."):
                manager.unregister(plugin)
        return _refusal("inline-snapshot can neither write nor keep the snapshots", items)
    if any(manager.has_plugin(name) for name in ("TestmonCollect", "TestmonSelect")):
        return _refusal("testmon cannot see the code that is run, for the choice of later runs,", items)
    return ""


def only_compare(config: pytest.Config) -> None:
    """Switch off updates of snapshots; in a rank, a missing snapshot is a failure: it would be lost."""
    for name in _SYRUPY:
        if hasattr(config.option, name):
            setattr(config.option, name, False)


def _refusal(what: str, items: list[pytest.Item]) -> str:
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return (
        f"{what} of tests on ranks, such as {items[0].nodeid}{more}: "
        "run this without them (with `--deselect` or `-m`), or them without it"
    )
