"""Start methods: how ranks are made, which of them can be used here, and the launchers of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_elastic.launch._group_plan import Launcher
from pytest_elastic.launch._spawn import FreshInterpreters, Session
from pytest_elastic.multiprocessing import RunRank, Zygote
from pytest_elastic.pristine import os
from pytest_elastic.processes import lost_by_fork


@dataclass(frozen=True, slots=True)
class Here:
    """The process that starts ranks.

    Attributes:
        threads: in words, threads of Python that may do or hold anything; `""` for none.
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
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA was initialised while the tests were collected"
    harmless = os.path.dirname(str(torch.__file__)) if torch is not None and here.torch_is_single else ""
    if pools := lost_by_fork(here.native, harmless):
        return f"native threads of {', '.join(pools)} are alive, which a fork would lose"
    return _numba_ends_forks()


def _numba_ends_forks() -> str:
    """Its layer on OpenMP ends a process that it sees for the first time after it ran in another one."""
    numba = sys.modules.get("numba")
    try:
        layer = numba.threading_layer() if numba is not None else ""
    except (ValueError, AttributeError):  # No parallel loop ran; or it is still being imported.
        return ""
    return (
        "numba ran a parallel loop on OpenMP, and ends every fork that runs another" if layer == "omp" else ""
    )


_FORK = StartMethod(
    "fork", False, True, _lost_by_fork, lambda source: Zygote.fork(source.run_rank, source.prepare)
)
_SPAWN = StartMethod("spawn", True, False, lambda _: "", lambda source: FreshInterpreters(source.session()))
START_METHODS = {method.name: method for method in (_FORK, _SPAWN)}
"""By name; `auto` is the first that can start."""


class Launchers:
    """The launchers of the run, each made at its first use.

    Attributes:
        default: the start method of tests that do not say which.
        why: the reason for it.
    """

    def __init__(self, asked: str, here: Here) -> None:
        """Choose the default: `asked` is a name, or `auto`."""
        self.default, self.why = _choose(asked, here)
        self._here, self._lost = here, dict[str, str]()
        self._source: Source | None = None
        self._open: dict[str, Launcher] = {}

    def method(self, asked: str | None) -> StartMethod:
        """The start method where a marker says `asked`."""
        return self.default if asked in (None, "auto") else START_METHODS[str(asked)]

    def prepare(self, methods: Iterable[StartMethod], source: Source) -> None:
        """Open now what cannot be opened once tests run, for these and the default."""
        self._source = source
        for method in {self.default, *methods}:
            if method.early:
                self.get(method)

    def get(self, method: StartMethod) -> Launcher:
        """The launcher for a start method."""
        if method.name not in self._open:
            assert self._source is not None
            self._lost[method.name] = method.can_start(self._here)
            self._open[method.name] = method.open(self._source)
        return self._open[method.name]

    def words(self, method: StartMethod) -> str:
        """The start method, and why it is used."""
        return f"{method.name} ({self.why if method is self.default else 'as its marker asks'})"

    def lost(self, method: StartMethod) -> str:
        """What speaks against a start method that was asked for by name and is in use; `""` for nothing."""
        return self._lost.get(method.name, "")

    def close(self) -> list[str]:
        """End them, and every group of theirs; bounded.  The start methods of those that had to be killed."""
        killed = [name for name, launcher in self._open.items() if not launcher.close()]
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
