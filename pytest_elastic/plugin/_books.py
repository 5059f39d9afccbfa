"""Plugins that keep books of what tests have used, in pytest's own process, and act on them at the end.

*Rules.*  Such a plugin sees a test on ranks pass without having used anything.  What it would then delete,
rewrite or leave out is the user's: a run that asks for it is refused in words before the first test, and
the plugin is held back first, since it acts at the end of a refused run too, in which nothing was used.
Ranks compare snapshots and never write them.
"""

from __future__ import annotations

import pytest

from pytest_elastic.pristine import os

_SYRUPY = ("update_snapshots", "update_new_snapshots_only")
_INLINE = {"create", "fix", "review", "trim", "update"}


def wrong_books(config: pytest.Config, items: list[pytest.Item]) -> str:
    """What must not happen by books that these items, which run on ranks, are not in; `""` if nothing.

    Whoever would do it has been held back.
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
    """Update nothing; in a rank, what a snapshot lacks is a failure, since what it would write is lost."""
    for name in _SYRUPY:
        if hasattr(config.option, name):
            setattr(config.option, name, False)


def _refusal(what: str, items: list[pytest.Item]) -> str:
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return (
        f"{what} of tests on ranks, such as {items[0].nodeid}{more}: "
        "run this without them (with `--deselect` or `-m`), or them without it"
    )
