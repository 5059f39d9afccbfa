"""Runner in a rank: runs the phases of items as the launcher orders, by pytest's own hooks.

*Theory of operation.*  The rank runs the item inside `pytest_runtest_protocol`, so that every wrapper of it
is in force (assertion details, warning filters, faulthandler), with one difference: what happens inside is
not pytest's run of three phases but a loop over orders.  Reporting hooks are taken off, since the
launcher reports; global capture is off, since the rank's descriptors are files of its own.
"""

from __future__ import annotations

import io
import logging
import pdb
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.collectives import install, preload
from pytest_elastic.errors import DebuggerError
from pytest_elastic.launch import RandomStates, RankProcess, RankTerminal, of_timeout
from pytest_elastic.multiprocessing import RankStart, copies_of, end_well, exit_code, exit_now, lead, let_go
from pytest_elastic.plugin._marker import read_marker
from pytest_elastic.plugin._other_plugins import (
    only_compare,
    recorded,
    run_once,
    take_outcomes,
    write_no_files,
)
from pytest_elastic.plugin._phase_report import (
    describe,
    marks_of,
    new_marks,
    pickles,
    plain,
    plain_values,
    raised_outcome,
)
from pytest_elastic.plugin._rank_logs import log_as_rank, show_what_is_not_captured
from pytest_elastic.plugin._stash import RANK, STREAMS
from pytest_elastic.plugin._tracebacks import cut_error, excinfo_of, is_in_tests
from pytest_elastic.pristine import os, threading
from pytest_elastic.progress import NOWHERE, show_on
from pytest_elastic.report import Follows, PhaseReport, Raised, follows
from pytest_elastic.store import inspect_process

_SAID = 1000  # Characters of an error's message that are told ahead of the report.
_FORMER_CAPTURE = pytest.StashKey[object]()
_REPORTING = (
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_exception_interact",
    "pytest_warning_recorded",
)


ItemName = tuple[str, int]


def names_of(items: list[pytest.Item]) -> dict[pytest.Item, ItemName]:
    """Names of items between processes: the id, and a count, since several items may have the same id."""
    counts, names = Counter[str](), dict[pytest.Item, ItemName]()
    for item in items:
        if item not in names:  # A file that is named twice has each of its items twice.
            names[item] = (item.nodeid, counts[item.nodeid])
            counts[item.nodeid] += 1
    return names


@dataclass(frozen=True, slots=True)
class RunItem:
    """Order: be ready for the phases of this item.

    Attributes:
        following: the next one of this group.
        outcomes: what is known of tests before it.
    """

    item: ItemName
    following: ItemName | None
    outcomes: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """Order: run this phase and report."""

    when: str


def quieten(config: pytest.Config) -> None:
    """Make this process one that reports nothing by itself; for a zygote or a spawned rank.

    Three touches of pytest's inside, each for lack of a public way: hook implementations are taken off
    one by one because unregistering their plugins would take fixtures along, and the capture manager is
    told to hold nothing because its temporary file is one for all forks.
    """
    for name in _REPORTING:
        hook = getattr(config.hook, name)
        for implementation in hook.get_hookimpls():
            hook._remove_plugin(implementation.plugin)
    run_once(config)
    show_on(NOWHERE)
    write_no_files()
    let_go(copies_of(STREAMS))
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        # Kept, since its files were never closed here, and Python would warn about each.
        config.stash[_FORMER_CAPTURE] = capture._global_capturing
        capture._global_capturing, capture._method = None, "no"
        capture.start_global_capturing()


def _lead_kept_streams(config: pytest.Config) -> None:
    """Redirect objects that hold pytest's streams, such as handlers of `logging`, to the rank's."""
    key: Any = getattr(config.pluginmanager.getplugin("faulthandler"), "fault_handler_stderr_fd_key", None)
    if key in config.stash:  # For `faulthandler_timeout`.
        os.dup2(2, config.stash[key], inheritable=False)
    capturing = config.stash.get(_FORMER_CAPTURE, None)
    for number, name in ((1, "out"), (2, "err")):
        stream = getattr(getattr(capturing, name, None), "tmpfile", None)
        if stream is None or hasattr(stream, "_other"):  # With `tee-sys` it writes to the descriptor, too.
            continue
        try:
            os.dup2(number, stream.fileno(), inheritable=False)
        except io.UnsupportedOperation:
            lead(stream, number)


class RankRunner:
    """A plugin that is registered in ranks only."""

    _rank: RankProcess
    _terminal: RankTerminal

    def __init__(self, session: pytest.Session, setup_show: bool, fresh: bool = False) -> None:
        self._items = {name: item for item, name in names_of(session.items).items()}
        self._config, self._setup_show, self._fresh = session.config, setup_show, fresh
        self.remarks: list[str] = []  # To be told with the first test.
        self._ran: set[ItemName] = set()
        self._marks: list[list[pytest.Mark]] = []
        self._subtests: list[Any] = []
        self._raised: Raised | None = None  # The phase's first failure.
        self._follows: dict[int, Follows] = {}  # Of the phase's errors, by identity.
        self._warnings: list[tuple[Any, type, str, int]] = []
        self._last: PhaseReport | None = None
        self._random_states = RandomStates()

    def prepare(self) -> None:
        """In a zygote or a spawned rank: replace the plugins that report."""
        quieten(self._config)
        only_compare(self._config)
        install()
        preload()
        self._config.pluginmanager.register(self, "pytest_elastic_rank")
        self._warnings.clear()  # What came before is pytest's to tell, and was told anew at the line above.

    def live(self, start: RankStart) -> int:
        """A rank's life; the exit code."""
        rank = self._rank = RankProcess(start)
        rank.tests = tuple(nodeid for nodeid, _ in self._items) if self._fresh else None
        self._terminal = RankTerminal(rank.rank, rank.channel)
        self._random_states.seed(start.job.test, rank.rank)
        rank.tell = self._tell
        _lead_kept_streams(self._config)
        # By which torch tells nobody, at DEBUG, of every error that it raises anyway.
        logging.getLogger("c10d-NullHandler-default").addFilter(lambda record: False)
        self._config.stash[RANK] = rank
        log_as_rank(self._config, rank.rank, Path(rank.directory))
        show_what_is_not_captured(self._config, Path(rank.directory))
        factory = getattr(self._config, "_tmp_path_factory", None)
        if factory is not None and not start.job.payload:
            base = factory.getbasetemp() / "ranks" / start.env["TORCHELASTIC_RUN_ID"] / str(rank.rank)
            base.mkdir(parents=True, exist_ok=True)
            factory._basetemp = base  # Ranks that number their directories in one place would collide.
        return rank.live(self._obey)

    def _obey(self, rank: RankProcess, order: RunItem) -> None:
        item = self._items[order.item]
        if order.item in self._ran or not getattr(item, "_request", True):
            item._initrequest()  # type: ignore[attr-defined]  # It has the fixtures' values of the last run.
        for name in ("addError", "addFailure"):
            if order.item not in self._ran and hasattr(item, name):
                setattr(item, name, self._noting(getattr(item, name)))
        self._ran.add(order.item)
        rank.see_collectives(read_marker(item).collectives)
        rank.thread_errors.forget()
        while self.remarks:
            self._warn(item, self.remarks.pop())
        self._marks = marks_of(item)
        take_outcomes(item, order.outcomes)
        nextitem = self._items.get(order.following) if order.following else None
        item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        if self._last is not None:
            self._last.warnings, self._warnings = self._warnings, []
            self._last.threads = sum(not thread.daemon for thread in threading.enumerate()) - 1
            rank.report(self._last)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Phases on order; the teardown's report is sent by `_obey`, once the warnings are known."""
        self._last = None
        while self._last is None:
            phase, _ = self._rank.channel.wait()
            report = self._run(item, phase.when, nextitem)
            if phase.when == "teardown":
                self._last = report
            else:
                self._rank.report(report)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Subtests report through this hook."""
        self._subtests.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> None:
        """Note a failure before it is rendered, that of a subtest too."""
        if call.excinfo is not None:
            self._note(call.excinfo.value)
            call.excinfo = excinfo_of(call.excinfo.value)

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        """Collect for the launcher, which records them against the item."""
        warning = warning_message
        message = warning.message if pickles(warning.message) else str(warning.message)
        category = warning.category if pickles(warning.category) else UserWarning
        self._warnings.append((message, category, warning.filename, warning.lineno))

    def pytest_enter_pdb(self, pdb: Any) -> None:
        """The debugger is at the terminal of the launcher, also when it stops again later."""
        __tracebackhide__ = True
        terminal, set_quit = self._terminal, pdb.set_quit
        terminal.borrow()

        def quit_for_all() -> None:
            set_quit()
            terminal.quit()

        def at_terminal(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                terminal.borrow()
                return method(*args)

            return call

        pdb.set_quit = quit_for_all
        # These return before the prompt: no frame of ours is between the test and its debugger.
        for name in ("message", "setup"):
            setattr(pdb, name, at_terminal(getattr(pdb, name)))

    def pytest_leave_pdb(self) -> None:
        """Until it stops at one of its own breakpoints."""
        self._terminal.give_back()

    def _run(self, item: pytest.Item, when: Any, nextitem: pytest.Item | None) -> PhaseReport:
        keywords: dict[str, Any] = {"nextitem": nextitem} if when == "teardown" else {}
        hook = getattr(item.ihook, f"pytest_runtest_{when}")
        written = io.StringIO()
        if self._setup_show:
            self._config.get_terminal_writer()._file = written
        known = len(item.user_properties)
        self._raised, self._follows = None, {}

        def run() -> None:
            __tracebackhide__ = True
            hook(item=item, **keywords)
            self._rank.thread_errors.raise_first()

        call = pytest.CallInfo.from_call(run, when=when)
        self._rank.thread_errors.forget()
        ended = SYSTEM_CLOCK.monotonic()
        self.pytest_leave_pdb()  # Somebody may have stepped out of the phase.
        report: Any = self._make_report(item, call)
        self._exit_as_expected(item, call)
        if (
            self._config.getoption("usepdb", False)
            and raised_outcome(call) == "failed"
            and not hasattr(report, "wasxfail")
        ):
            call = self._post_mortem(call, report)
        subtests, self._subtests = [self._subtest(item, one) for one in self._subtests], []
        said = self._describe(item, call, report, subtests)
        values, params = plain_values(item)
        attributes, suite_properties = recorded(item)
        return PhaseReport(
            rank=self._rank.rank,
            when=when,
            at=ended if self._raised is None else self._raised.at,
            duration=call.duration,
            data=self._serialise(report),
            shown=written.getvalue(),
            properties=[(name, plain(value)) for name, value in item.user_properties[known:]],
            inspection=inspect_process(),
            marks=new_marks(item, self._marks, lambda text: self._warn(item, text)),
            subtests=subtests,
            values=values,
            params=params,
            attributes=attributes,
            suite_properties=suite_properties,
            **said,
        )

    def _make_report(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
        """As hooks leave it; a hook that fails ends the session of a plain test, and here fails this one."""
        hook = item.ihook.pytest_runtest_makereport
        made = pytest.CallInfo.from_call(lambda: hook(item=item, call=call), when=call.when)
        return made.result if made.excinfo is None else pytest.TestReport.from_item_and_call(item, made)

    def _describe(
        self, item: pytest.Item, call: pytest.CallInfo[Any], report: Any, subtests: list[PhaseReport]
    ) -> dict[str, Any]:
        kind = self._follows.get(id(call.excinfo.value), "") if call.excinfo is not None else ""
        said = describe(item, call, report, kind)
        failed = sum(subtest.outcome == "failed" for subtest in subtests)
        if not failed or said["outcome"] != "passed":
            return said
        report.outcome = "failed"
        report.longrepr = f"contains {failed} failed subtest{'s' if failed > 1 else ''}"
        said = describe(item, call, report, kind)
        if self._raised is not None:
            said |= {"error_type": self._raised.error_type, "follows": self._raised.follows}
        return said | {"of_timeout": any(subtest.of_timeout for subtest in subtests)}

    def _subtest(self, item: pytest.Item, report: Any) -> PhaseReport:
        """One of its own subtests, which has been judged whole."""
        longrepr = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        crash = getattr(getattr(longrepr, "reprcrash", None), "message", "")
        text = str(longrepr or "")
        return PhaseReport(
            self._rank.rank,
            "call",
            report.outcome,
            SYSTEM_CLOCK.monotonic(),
            report.duration,
            self._serialise(report),
            crash or text,
            details={"text": text},
            of_timeout="DistStoreError" in crash,
        )

    def _tell(self, error: BaseException) -> PhaseReport:
        """The report of a function that has failed, as that of a test's call."""
        at, kind = SYSTEM_CLOCK.monotonic(), follows(error)
        cut_error(error, self._config)
        style: Any = self._config.getoption("tbstyle", "auto")
        shown = excinfo_of(error).getrepr(
            showlocals=self._config.getoption("showlocals", False),
            style=style if style in ("short", "native") else "long",
        )
        place = shown.reprcrash if is_in_tests(error) else None
        crash = place.message if place is not None else excinfo_of(error).exconly()
        longrepr = shown if place is not None else crash
        return PhaseReport(
            self._rank.rank,
            "call",
            "failed",
            at,
            0.0,
            self._serialise(pytest.TestReport("", ("", None, ""), {}, "failed", longrepr, "call")),
            crash,
            f"{place.path}:{place.lineno}" if place is not None else "",
            error_type=type(error).__name__,
            follows=kind,
            details={"kind": "", "text": str(longrepr)},
            inspection=inspect_process(),
            of_timeout=of_timeout(error),
        )

    def _note(self, error: object) -> None:
        """Tell the launcher at once that the phase has failed: to say why may take its time."""
        quiet = (pytest.skip.Exception, pytest.exit.Exception, pytest.xfail.Exception)
        if not isinstance(error, BaseException) or isinstance(error, quiet) or id(error) in self._follows:
            return
        kind = self._follows[id(error)] = follows(error)  # Before its last frames, which tell, are cut.
        cut_error(error, self._config)
        if self._raised is None:
            at, innermost = SYSTEM_CLOCK.monotonic(), deque(walk_tb(error.__traceback__), 1)
            place = "".join(f"{frame.f_code.co_filename}:{line}" for frame, line in innermost)
            said = ""
            with suppress(Exception):  # Its text is the rank's own.
                said = excinfo_of(error).exconly(tryshort=True).partition("\n")[0]
            name = type(error).__name__
            self._raised = Raised(self._rank.rank, at, name, place, kind, said[:_SAID])
            self._rank.report(self._raised, error)

    def _noting(self, add: Callable[..., None]) -> Callable[..., None]:
        """The method of `unittest`'s that takes an error, in the middle of the test."""

        def note(testcase: Any, error: Any, *more: Any) -> None:
            if isinstance(error, tuple):
                self._note(error[1])
                error = (*error[:2], getattr(error[1], "__traceback__", error[2]))
            add(testcase, error, *more)

        return note

    def _warn(self, item: pytest.Item, text: str) -> None:
        self._warnings.append((text, pytest.PytestWarning, str(item.path), (item.location[1] or 0) + 1))

    def _exit_as_expected(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        """`sys.exit` is how this rank was to end, if the marker's `expect` says so; else it is a failure."""
        end = call.excinfo.value if call.excinfo is not None else None
        if isinstance(end, SystemExit):
            code = exit_code(end)
            if read_marker(item).expect.get(self._rank.rank) == code:
                exit_now(end_well() or code)

    def _post_mortem(self, call: pytest.CallInfo[Any], report: Any) -> pytest.CallInfo[Any]:
        """Open a debugger at the failure, if this is the first rank to ask; the outcome of the phase."""
        terminal = self._terminal
        assert call.excinfo is not None
        try:
            terminal.borrow(post_mortem=True)
        except DebuggerError:
            return call
        print(report.longreprtext)
        debugger = pdb.Pdb()
        debugger.reset()
        debugger.interaction(None, call.excinfo.tb)
        if not debugger.quitting:
            terminal.give_back()
            return call
        terminal.quit()
        return pytest.CallInfo.from_call(lambda: pytest.exit("Quitting debugger"), when=call.when)

    def _serialise(self, report: Any) -> dict[str, Any]:
        report.user_properties = []
        data: dict[str, Any] = self._config.hook.pytest_report_to_serializable(
            config=self._config, report=report
        )
        return data
