"""Debuggers: lends the terminal of pytest to ranks, and opens `--pdb` in pytest only if no rank has.

A rank that fails under `--pdb` opens its debugger itself, where it failed; pytest's own one is for what no
rank could show (ranks that died or hung, no terminal).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import pytest_timeout

from pytest_elastic.launch import Elastic, Terminal
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._stash import DEBUGGED
from pytest_elastic.pristine import os

_PDB = "pdbinvoke"


class Debugging:
    """A plugin that is registered while tests on ranks run.

    Attributes:
        elastic: what the test that runs has of the controller style.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stop_clocks = Options(config).debugging_stops_clocks
        self._standing = ExitStack()
        self._invoke: Any = None
        self.elastic: Elastic | None = None

    def begin(self) -> None:
        """Replace the plugin of `--pdb`."""
        manager = self._config.pluginmanager
        self._invoke = manager.unregister(name=_PDB) if manager.has_plugin(_PDB) else None
        manager.register(self)

    def end(self) -> None:
        """Restore it."""
        self._config.pluginmanager.unregister(self)
        if self._invoke is not None:
            self._config.pluginmanager.register(self._invoke, _PDB)

    @contextmanager
    def terminal(self) -> Iterator[Terminal | None]:
        """Inside, the terminal is free, for a debugger in a rank; `None` where pytest has none."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        capture.suspend(in_=True) if capture else None
        try:
            shown = os.isatty(0) and self._config.pluginmanager.has_plugin("terminalreporter")
            write = partial(self._config.get_terminal_writer().write, flush=True) if shown else None
            yield Terminal((0, 1, 2), write) if write else None
        finally:
            capture.resume() if capture else None

    def is_debugged(self) -> bool:
        """Whether pytest itself runs in a debugger, as far as pytest-timeout can tell: limits are off then.

        That pytest's own debugger was open before is no reason: the time was not charged.
        """
        suppressed = pytest_timeout.SUPPRESS_TIMEOUT
        return self._stop_clocks and not suppressed and pytest_timeout.is_debugging()

    def pytest_enter_pdb(self) -> None:
        """Timers of groups that are looked after stand still while pytest's own debugger is open."""
        self._standing.close()
        if self.elastic is not None and self._stop_clocks:
            for group in self.elastic.groups:
                self._standing.enter_context(group.timers.standing_still())

    def pytest_leave_pdb(self) -> None:
        """They go on."""
        self._standing.close()

    def pytest_exception_interact(self, node: pytest.Item, call: Any, report: Any) -> None:
        """`--pdb`, unless a rank has shown it."""
        if self._invoke is not None and not node.stash.get(DEBUGGED, False):
            self._invoke.pytest_exception_interact(node=node, call=call, report=report)

    def pytest_internalerror(self, excinfo: Any) -> None:
        """`--pdb` is for these too."""
        if self._invoke is not None:
            self._invoke.pytest_internalerror(excinfo=excinfo)
