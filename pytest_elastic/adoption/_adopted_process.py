"""An adopted process: how a fork of the zygote becomes what `multiprocessing` would have made.

*Rules.*  It has the caller's environment, directory, path, arguments, streams, key and resource tracker, as
a fresh interpreter would; what is inherited from pytest's process (callbacks at exit, finalizers, hooks for
errors, handlers of the log) is dropped.  Modules stay loaded, and that is all that it gains.

Private names of the standard library: `multiprocessing.util._finalizer_registry` and `_run_after_forkers`,
`BaseProcess._inheriting` and `_bootstrap`, tried with Python 3.11 to 3.13.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing.spawn
import multiprocessing.util
import sys
from dataclasses import dataclass
from typing import Any

from pytest_elastic.adoption._family import join_family
from pytest_elastic.launch import DUMP_SIGNAL
from pytest_elastic.multiprocessing import RankStart, end_well, forget_launcher, receive_parcel
from pytest_elastic.pristine import os, pickle


@dataclass(frozen=True, slots=True)
class AdoptedProcess:
    """The job of a `RankStart` that is an adopted process.

    Attributes:
        launcher: pid of the process that starts it.
        method: of the context that it belongs to: `"spawn"` or `"forkserver"`.
        environ: its whole environment.
        stacks: file for its stacks, when they are asked for.
    """

    launcher: int
    method: str
    environ: dict[str, str]
    stacks: str

    def __call__(self, start: RankStart) -> int:
        """Live; the exit code is the value."""
        forget_launcher()
        forget_pytest()
        os.environ.clear()
        os.environ.update(self.environ)
        file = open(self.stacks, "w", encoding="utf-8")  # noqa: SIM115 - faulthandler needs it until the end.
        faulthandler.register(DUMP_SIGNAL, file=file, all_threads=True)
        faulthandler.enable(file=file)
        if "family" in start.descriptors:
            join_family(start.descriptors["family"])
        process: Any = receive_parcel(start.descriptors)(pickle.loads)
        code: int = process._bootstrap(os.pidfd_open(self.launcher))
        # What the fork server makes runs callbacks at its exit since Python 3.13, those of queues among them.
        if self.method == "spawn" or sys.version_info >= (3, 13):
            end_well()
        return code & 0xFF


def forget_pytest() -> None:
    """In a fork: drop what pytest has put in the place of the interpreter's own."""
    util: Any = multiprocessing.util
    util._finalizer_registry.clear()
    util._run_after_forkers()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threads: Any = sys.modules["threading"]
    threads.excepthook = threads.__excepthook__
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler).__module__.startswith("_pytest."):
            root.removeHandler(handler)
