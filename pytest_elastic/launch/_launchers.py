"""Start methods: how ranks are made, which of them can be used here, and the launchers of the run.

*Rules.*  `auto` is `fork` where this process can be forked safely, else `spawn`.  Where it is files of tests
that have started what a fork would lose, their tests alone take `spawn`, if there is a `CleanZygote` for all
others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pytest_elastic.launch._group_plan import Launcher
from pytest_elastic.launch._spawn import FreshInterpreters, Session
from pytest_elastic.multiprocessing import RunRank, Zygote
from pytest_elastic.pristine import os
from pytest_elastic.processes import lost_by_fork


@dataclass(frozen=True, slots=True)
class Here:
    """What speaks against a fork of the process that starts ranks, or the part of it that one file made.

    Attributes:
        threads: in words, threads of Python that may do or hold anything, and what else no fork survives;
            `""` for none.
        native: the kernel's numbers of other such threads.
        torch_is_single: whether ranks have torch use one thread.
    """

    threads: str
    native: set[int]
    torch_is_single: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What launchers make ranks from.

    Attributes:
        run_rank: the life of a rank that is a fork of this process.
        prepare: runs in that fork before, once for all ranks.
        session: the session of pytest that ranks repeat which are no forks.
    """

    run_rank: RunRank
    prepare: Callable[[], None]
    session: Callable[[], Session]


@dataclass(frozen=True, slots=True)
class StartMethod:
    """How ranks are made.

    Attributes:
        name: in options, markers and reports.
        warm: whether ranks are dear to start, and run one test after the other while they stay clean.
        early: whether its launcher must be opened before the first test runs.
        can_start: asks why it cannot be used in a process, in words; `""` if it can.
        open: makes its launcher.
    """

    name: str
    warm: bool
    early: bool
    can_start: Callable[[Here], str]
    open: Callable[[Source], Launcher]


def _lost_by_fork(here: Here) -> str:
    if here.threads:
        return here.threads
    torch = sys.modules.get("torch")
    harmless = os.path.dirname(str(torch.__file__)) if torch is not None and here.torch_is_single else ""
    if pools := lost_by_fork(here.native, harmless):
        return f"native threads of {', '.join(pools)} are alive, which a fork would lose"
    return ""


_FORK = StartMethod(
    "fork", False, True, _lost_by_fork, lambda source: Zygote.fork(source.run_rank, source.prepare)
)
_SPAWN = StartMethod("spawn", True, False, lambda _: "", lambda source: FreshInterpreters(source.session()))
START_METHODS = {method.name: method for method in (_FORK, _SPAWN)}
"""By name; `auto` is the first that can start."""


class Launchers:
    """The launchers of the run, each made at its first use.

    Attributes:
        default: the start method of tests that do not say which, but for those of `take`.
        why: the reason for it.
        apart: the files of tests without which this process could be forked -> why not with them.  Empty
            where there are none, and where a name was asked for.
    """

    def __init__(self, asked: str, heres: Mapping[str, Here]) -> None:
        """Choose the default: `asked` is a name, or `auto`.

        Args:
            heres: what speaks against a fork, by the file of tests that made it; `""` has the rest.
        """
        said = "; ".join(here.threads for here in heres.values() if here.threads)
        native = {number for here in heres.values() for number in here.native}
        self._here = Here(said, native, heres[""].torch_is_single)
        self.default, self.why = _choose(asked, self._here)
        self.apart: dict[str, str] = {}
        if asked == "auto" and self.default is not _FORK and not _lost_by_fork(heres[""]):
            whys = {file: _lost_by_fork(here) for file, here in heres.items()}
            self.apart = {file: why for file, why in whys.items() if why}
        self._clean: StartMethod | None = None  # A fork, too, but not of this process.
        self._lost = dict[str, str]()
        self._source: Source | None = None
        self._open: dict[StartMethod, Launcher] = {}

    def take(self, clean: Callable[[Source], Launcher], apart: Mapping[str, str]) -> None:
        """Use the zygote that this gives for all tests but those of these files, which take the default."""
        self.apart = dict(apart)
        self._clean = StartMethod("fork", False, False, lambda _: "", clean)

    def refuse(self, why: str) -> None:
        """There is no such zygote: all tests take the default."""
        self.apart, self.why = {}, f"{self.why}; {why}"

    def method(self, asked: str | None, file: str = "") -> StartMethod:
        """The start method where a marker says `asked`, for a test in this file."""
        if asked not in (None, "auto"):
            return START_METHODS[str(asked)]
        return self.default if self._clean is None or file in self.apart else self._clean

    def prepare(self, methods: Iterable[StartMethod], source: Source) -> None:
        """Open now what cannot be opened once tests run, for these and the default."""
        self._source = source
        for method in {self.default, *methods}:
            if method.early:
                self.get(method)

    def get(self, method: StartMethod) -> Launcher:
        """The launcher for a start method."""
        if method not in self._open:
            assert self._source is not None
            self._lost[method.name] = method.can_start(self._here)
            self._open[method] = method.open(self._source)
        return self._open[method]

    def words(self, method: StartMethod) -> str:
        """The start method, and why it is used."""
        why = self.why if method is self.default else "as its marker asks"
        if method is self._clean:
            files = list(self.apart)
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            why = f"of an interpreter that did not import {files[0]}{more}"
        return f"{method.name} ({why})"

    def lost(self, method: StartMethod) -> str:
        """What speaks against a start method that was asked for by name and is in use; `""` for nothing."""
        return "" if method is self._clean else self._lost.get(method.name, "")

    def close(self) -> list[str]:
        """End them, and every group of theirs; bounded.  The start methods of those that had to be killed."""
        killed = [method.name for method, launcher in self._open.items() if not launcher.close()]
        self._open.clear()
        return killed


def _choose(asked: str, here: Here) -> tuple[StartMethod, str]:
    if asked != "auto":
        return START_METHODS[asked], "as asked"
    why = "the modules of the tests started no threads"
    for method in START_METHODS.values():
        if not (lacking := method.can_start(here)):
            break
        why = lacking
    return method, why
