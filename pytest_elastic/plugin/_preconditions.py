"""Preconditions of tests on ranks: platform, plugins, and which threads are alive when ranks are forked.

Where there can be no ranks, the tests that want some fail and say why, and all others run.  Nothing of the
parts is imported here before the platform is known to have what they need.
"""

from __future__ import annotations

import sys

import pytest

from pytest_elastic.plugin._marker import fail_instead
from pytest_elastic.pristine import os, threading
from pytest_elastic.processes import ended_by_fork, thread_count, thread_numbers


def _replaced_threads() -> str:
    """The package that has put threads of its own in the place of Python's, `""` for none."""
    for name in ("_start_new_thread", "_start_joinable_thread"):  # The latter from Python 3.13 on.
        start = getattr(sys.modules["threading"], name, None)  # As it is now.
        if start is not None and start.__module__ != "_thread":
            return str(start.__module__).partition(".")[0]
    return ""


class ThreadCensus:
    """Which threads were started by the tests' modules, or by the application that calls pytest.

    Plugins may have threads of their own (a worker's receiver, say) that sleep while nothing runs; those
    of test modules and of applications may hold any lock at any time.  Threads that Python did not start
    count as well: pools of numerical libraries.  A thread belongs to the file that was being collected when
    it was first seen.
    """

    def __init__(self) -> None:
        self._before, self._conftests = _threads(), set[int]()
        self._excused = {threading.get_native_id()}
        self._seen, self._count, self._starters = self._before, 0, dict[int, str]()
        self._ended, self._ender = "", ""

    def conftests_loaded(self) -> None:
        """Note the threads of the first conftest files."""
        self._conftests = _threads() - self._before

    def configured(self, is_worker: bool) -> None:
        """Excuse the threads of plugins; in a worker of xdist, also those that were there before them."""
        self._excused |= _threads() - self._before - self._conftests
        if is_worker:
            self._excused |= self._before
        self._seen, self._count = _threads(), thread_count()

    def collected(self, collector: pytest.Collector) -> None:
        """Note what was started since the last look, while this was collected."""
        count = thread_count()
        if count != self._count:
            now = _threads()
            self._starters.update(dict.fromkeys(now - self._seen, file_of(collector)))
            self._seen, self._count = now, count
        if not self._ended and (ended := ended_by_fork()):
            self._ended, self._ender = ended, file_of(collector)

    def foreign(self) -> dict[str, tuple[str, set[int]]]:
        """What no fork survives, by the file of tests that has started it, `""` for none.

        The living threads that are not excused: Python's in words, the kernel's numbers of all others.
        """
        numbers = _threads() - self._excused - {threading.get_native_id()}  # Which a fork has anew.
        by_file: dict[str, set[int]] = {"": set(), self._ender: set()}
        for number in numbers:
            by_file.setdefault(self._starters.get(number, ""), set()).add(number)
        return {file: self._words(file, mine) for file, mine in by_file.items()}

    def _words(self, file: str, numbers: set[int]) -> tuple[str, set[int]]:
        names = {thread.native_id or 0: thread.name for thread in threading.enumerate()}
        said = [self._ended] if self._ended and file == self._ender else []
        for whose, there in (
            ("the application that called pytest", numbers & self._before),
            ("the tests' modules", numbers - self._before),
        ):
            if named := sorted(names[number] for number in there & names.keys()):
                said.append(f"threads that {whose} started are alive: {', '.join(named)}")
        return "; ".join(said), numbers - names.keys()


def file_of(node: pytest.Item | pytest.Collector) -> str:
    """The id of the file of tests that it belongs to; `""` for none."""
    file = node.getparent(pytest.File)  # type: ignore[type-abstract]
    return "" if file is None else file.nodeid


def _threads() -> set[int]:
    """The kernel's numbers of all threads of this process; where it does not tell, of Python's."""
    try:
        return thread_numbers(os.getpid())
    except OSError:
        return {thread.native_id or 0 for thread in threading.enumerate()}


def unable(config: pytest.Config) -> str:
    """Why no test can run on ranks here, in words; `""` where they can."""
    lacking = f"this is {sys.platform}"
    if sys.platform == "linux":
        from pytest_elastic.processes import supported

        lacking = supported()
    if lacking:
        return f"tests on ranks need Linux 5.3 or newer with /proc: {lacking}"
    if not hasattr(config, "_tmp_path_factory"):
        return "tests on ranks need pytest's plugin for temporary directories: no `-p no:tmpdir`"
    if other := _replaced_threads():
        return (
            f"tests on ranks need Python's own threads, and {other} has put others in their place (a"
            " monkey.patch_all() in a conftest file?): leave threads alone there, or run these tests without"
        )
    return ""


def refuse(session: pytest.Session, wanted: list[pytest.Item], why: str, whole_run: bool = False) -> None:
    """Replace the tests that want ranks by failures with these words.

    Raises:
        pytest.UsageError: there are no others, or nothing may run (`whole_run`).  Not in a worker of xdist,
            which would drop the words.
    """
    if (whole_run or len(wanted) == len(session.items)) and not hasattr(session.config, "workerinput"):
        raise pytest.UsageError(why)
    for item in wanted:
        fail_instead(item, why)


def runs_tests(session: pytest.Session) -> bool:
    """Whether what was collected is going to run: not with `--collect-only`, nor after errors of it."""
    config = session.config
    if config.option.collectonly or config.getoption("setupplan", False):  # Whose plugin may be off.
        return False
    return bool(session.items) and not (
        session.testsfailed and not config.option.continue_on_collection_errors
    )
