"""What pytest finds out each time that it starts, found out once: for forks of a template.

*Theory.*  Half of a small session's processor time is pytest's start: it reads the metadata of all that is installed,
registers its own plugins, and searches each of them for fixtures.  All this is the same in each fork, as the files are
the same.  `remember` does it in the template; a session whose arguments could change it (`-p no:...`) starts as ever.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
from types import ModuleType
from typing import Any

from _pytest import config, fixtures


def remember() -> None:
    """Make pytest's start cheap in forks of this process, once for each fork."""
    _remember_distributions()
    _remember_plugins()
    _remember_fixtures()


def _remember_distributions() -> None:
    """Those that are installed now; what a test adds is read as ever."""
    installed = list(importlib.metadata.distributions())
    for name in ("entry_points", "metadata"):
        known = {str(one._path): getattr(one, name) for one in installed}
        read = getattr(importlib.metadata.PathDistribution, name).fget

        def get(self: Any, known: dict[str, Any] = known, read: Any = read) -> Any:
            found = known.get(str(self._path))
            return read(self) if found is None else found

        setattr(importlib.metadata.PathDistribution, name, property(get))


def _remember_plugins() -> None:
    prog, make = "python -m pytest", config.get_config
    ready = [make(prog=prog)]

    def get_config(args: Any = None, plugins: Any = None, **options: Any) -> config.Config:
        if not ready or options != {"prog": prog} or any("no:" in str(argument) for argument in args or ()):
            return make(args, plugins, **options)
        made = ready.pop()
        made.invocation_params = config.Config.InvocationParams(
            args=args or (), plugins=plugins, dir=pathlib.Path.cwd()
        )
        return made

    config.get_config = get_config


def _remember_fixtures() -> None:
    """Which plugins have none."""
    without = {
        plugin
        for plugin in config.get_plugin_manager().get_plugins()
        if isinstance(plugin, ModuleType)
        and not any(type(value) is fixtures.FixtureFunctionDefinition for value in vars(plugin).values())
    }
    parse = fixtures.FixtureManager.parsefactories

    def parsefactories(self: Any, *arguments: Any, **options: Any) -> None:
        holder = options.get("holder")
        if not isinstance(holder, ModuleType) or holder not in without:
            parse(self, *arguments, **options)

    fixtures.FixtureManager.parsefactories = parsefactories
