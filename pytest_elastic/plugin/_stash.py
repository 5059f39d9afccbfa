"""Stash keys of the plugin, on the config of a run and on items."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pytest_elastic.pristine import os

# The types are for readers and type checkers only: at run time these modules are not loaded yet.
if TYPE_CHECKING:
    from pytest_elastic.faults import FaultPlan
    from pytest_elastic.launch import CleanZygote, Elastic, Launchers, RankProcess
    from pytest_elastic.plugin._external import Listener, Spokesman
    from pytest_elastic.plugin._fresh import FreshSession
    from pytest_elastic.plugin._past_capture import PastCapture
    from pytest_elastic.plugin._preconditions import ThreadCensus
    from pytest_elastic.plugin._ray import RayAgent
    from pytest_elastic.plugin._reproduce import Experiments
    from pytest_elastic.plugin._session import Conductor
    from pytest_elastic.report import PhaseVerdict

# The standard streams that pytest was called with, before it captures them.
STREAMS: list[os.stat_result] = []
for _number in range(3):
    with contextlib.suppress(OSError):
        STREAMS.append(os.fstat(_number))
# On the config of a run.
CENSUS: pytest.StashKey[ThreadCensus] = pytest.StashKey()
LAUNCHERS: pytest.StashKey[Launchers] = pytest.StashKey()
CLEAN: pytest.StashKey[CleanZygote] = pytest.StashKey()  # If it forks for some of the tests.
TERMINAL: pytest.StashKey[PastCapture] = pytest.StashKey()
CONDUCTOR: pytest.StashKey[Conductor] = pytest.StashKey()
PATH: pytest.StashKey[list[str]] = pytest.StashKey()  # `sys.path` before the first conftest file.
EXTERNAL: pytest.StashKey[Spokesman | Listener] = pytest.StashKey()
AGENT: pytest.StashKey[RayAgent] = pytest.StashKey()
# On the config of a rank: of one that collects by itself, and of each.
FRESH: pytest.StashKey[FreshSession] = pytest.StashKey()
RANK: pytest.StashKey[RankProcess] = pytest.StashKey()
# On an item: how many ranks it has, of all the sizes in the list that made it.
SIZE: pytest.StashKey[tuple[int, tuple[int, ...]]] = pytest.StashKey()
# On an item: whether the failure of its phase was seen in a rank's debugger.
DEBUGGED: pytest.StashKey[bool] = pytest.StashKey()
# On an item: seconds from pytest-timeout and whether they are for the call phase only; the last verdict.
TIMEOUT: pytest.StashKey[tuple[float, bool]] = pytest.StashKey()
VERDICT: pytest.StashKey[PhaseVerdict] = pytest.StashKey()
# The report of it that hooks of pytest's process are given.
REPORT: pytest.StashKey[pytest.TestReport] = pytest.StashKey()
# On an item that runs functions on ranks: what has been run.
ELASTIC: pytest.StashKey[Elastic] = pytest.StashKey()
# The faults that it plans, and what became of its groups.
PLAN: pytest.StashKey[FaultPlan] = pytest.StashKey()
EXPERIMENTS: pytest.StashKey[Experiments] = pytest.StashKey()
