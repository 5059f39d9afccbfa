"""Files of tests apart: who is to be spawned for them, and the fresh interpreter that forks for all others.

See `launch/_clean.py`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from pytest_elastic.errors import GuardianError
from pytest_elastic.launch import (
    START_METHODS,
    CleanZygote,
    Collected,
    Here,
    Launchers,
    Session,
    Succession,
    ZygoteStart,
    start_of_this_interpreter,
)
from pytest_elastic.multiprocessing import do_job, exit_now, set_environment
from pytest_elastic.plugin._fresh import FreshRank, FreshSession, session_of
from pytest_elastic.plugin._marker import is_elastic, read_marker, runs_functions
from pytest_elastic.plugin._options import Options
from pytest_elastic.plugin._preconditions import file_of, runs_tests
from pytest_elastic.plugin._runner import RankRunner
from pytest_elastic.plugin._stash import CENSUS, CLEAN

_SHOWN = 5  # Files in the header.


def set_apart(launchers: Launchers, session: pytest.Session) -> None:
    """Have a clean zygote fork for all files of tests but those that are apart; blocks while it starts.

    Where there is nothing to be forked for, or no such zygote, no file is apart.
    """
    config, apart = session.config, launchers.apart
    tests = tests_by_file(session.items, Options(config).adopt != "off")
    files = frozenset(tests) - apart.keys()
    if not files:
        launchers.apart = {}
        return

    def start(_: object = None) -> CleanZygote:
        factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
        return CleanZygote(session_of(config, files), factory.mktemp("clean"), Options(config).start_timeout)

    if not runs_tests(session):
        launchers.take(start, apart)
        return
    try:
        zygote = start()
    except GuardianError as error:
        launchers.refuse(f"an interpreter without {', '.join(apart)} {error.what}")
        return
    config.add_cleanup(zygote.stop)
    found = zygote.collected
    lacking = {file for file in files if not tests[file] <= found.tests}
    apart |= dict.fromkeys(lacking, "a fresh interpreter did not collect the same tests") | found.apart
    if files <= apart.keys():
        launchers.refuse("no other file of tests is better")
    else:
        launchers.take(lambda _: zygote, apart)
        config.stash[CLEAN] = zygote


def tests_by_file(items: list[pytest.Item], adopts: bool) -> dict[str, set[str]]:
    """The ids of the tests whose ranks are made as the run's default says; all others, too, if it adopts."""
    found: dict[str, set[str]] = {}
    for item in items:
        if is_elastic(item) and read_marker(item).start_method not in (None, "auto"):
            continue
        if adopts or is_elastic(item) or runs_functions(item):
            found.setdefault(file_of(item), set()).add(item.nodeid)
    return found


def spawned_files(launchers: Launchers, items: list[pytest.Item]) -> frozenset[str] | None:
    """The files that spawned ranks have tests of; `None` for all."""
    if not launchers.apart:
        return None
    by_name = {file_of(item) for item in items if read_marker(item).start_method == "spawn"}
    return frozenset(launchers.apart) | by_name


def apart(launchers: Launchers, on_ranks: list[pytest.Item]) -> list[str]:
    """Lines at the start of the run: which tests are not forked like all others, and why."""
    found = []
    for file, why in launchers.apart.items():
        if count := sum(file_of(item) == file for item in on_ranks):
            found.append(
                f"elastic: {count} of them, in {file}, start method {launchers.default.name} ({why})"
            )
    more = [f"elastic: likewise in {len(found) - _SHOWN} more files"] if len(found) > _SHOWN else []
    return [*found[:_SHOWN], *more]


def fresh_session(told: bytes) -> FreshSession:
    """What this fresh interpreter is for."""
    start, session = start_of_this_interpreter(told)
    if isinstance(start, ZygoteStart):
        return CleanSession(start, session)
    return FreshRank(start, session)


class CleanSession(FreshSession):
    """Of one that is to be a clean zygote: each file is a step of a succession."""

    def __init__(self, start: ZygoteStart, session: Session) -> None:
        super().__init__(session)
        self._start, self._apart = start, dict[str, str]()
        self._steps = Succession(start.descriptors["channel"], start.launcher, self._fault)

    def _wants(self, file: str) -> bool:
        if not super()._wants(file):
            return False
        if why := self._steps.begin():
            self._apart[file] = why
        return not why

    def _fault(self) -> str:
        census = self._config.stash[CENSUS].foreign()
        said = (START_METHODS["fork"].can_start(Here(*what, True)) for what in census.values())
        return next(filter(None, said), "")

    def become(self, session: pytest.Session) -> NoReturn:
        """Be the zygote."""
        if why := self._steps.begin():  # Else this process has no child of its own.
            self._steps.channel.send(Collected(why=why))
            exit_now(1)
        set_environment(self._start.env)
        factory: Any = session.config._tmp_path_factory  # type: ignore[attr-defined]
        factory.getbasetemp()  # Before the fork, as in pytest's process.
        runner = RankRunner(session, Options(session.config).setup_show)
        runner.prepare()
        runner.remarks = self._skipped
        self._steps.settle()
        tests = frozenset(item.nodeid for item in session.items)
        self._steps.channel.send(Collected(tests, self._apart))
        self._steps.serve(lambda start: do_job(start) if callable(start.job) else runner.live(start))
