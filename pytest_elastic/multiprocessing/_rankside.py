"""Begin and end of a rank that runs Python: drops what it inherited from the launcher, and exits cleanly.

A rank ends as an interpreter does (executors shut down, non-daemon threads joined, `atexit` callbacks of its
own, children of `multiprocessing` ended, coverage saved, streams flushed) but for the last step: `os._exit`,
since tearing modules down may cost more than the work.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import stat
import sys
import traceback
import weakref
from collections.abc import Iterable

from pytest_elastic.multiprocessing import _signals
from pytest_elastic.pristine import os, signal, threading
from pytest_elastic.processes import open_descriptors


def forget_launcher() -> None:
    """In a fork: drop the launcher's `atexit` callbacks, children and signal handlers."""
    atexit._clear()
    # These two of Python's were registered once, also for what the rank will make.
    atexit.register(logging.shutdown)
    for finalizer in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        finalizer.atexit = False
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    for number in signal.valid_signals():
        if signal.getsignal(number) is _signals.on_signal:
            signal.signal(number, signal.SIG_DFL)
    if processes := sys.modules.get("multiprocessing.process"):
        processes.__dict__["_children"].clear()


def let_go(descriptors: Iterable[int]) -> None:
    """Point these descriptors at /dev/null, so that a pipe of the launcher's can come to its end."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in descriptors:
        os.dup2(null, number, inheritable=number < 3)
    os.close(null)


def lead(stream: io.TextIOWrapper, number: int) -> None:
    """Have a text stream write to this descriptor from now on, unbuffered, for all who hold it."""
    io.TextIOWrapper.__init__(
        stream,
        io.FileIO(number, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )


def copies_of(streams: Iterable[os.stat_result]) -> list[int]:
    """Descriptors of this process that are the same pipe, socket or terminal as one of these."""
    files = {(status.st_dev, status.st_ino) for status in streams if not stat.S_ISREG(status.st_mode)}
    found = []
    for number in open_descriptors():
        with contextlib.suppress(OSError):  # The one that the list was read from.
            status = os.fstat(number)
            if (status.st_dev, status.st_ino) in files:
                found.append(number)
    return found


def exit_code(end: SystemExit) -> int:
    """The exit code of an interpreter that `sys.exit` ends so; what is no number goes to stderr."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF if -(1 << 63) <= end.code < 1 << 63 else 0xFF
    print(end.code, file=sys.stderr)
    return 1


def end_well() -> int:
    """Run an interpreter's shutdown up to the exit; returns 1 if a callback failed, else 0.

    Blocks for non-daemon threads.
    """
    faults: list[object] = []

    def note(fault: sys.UnraisableHookArgs) -> None:
        faults.append(fault.exc_value)
        sys.__unraisablehook__(fault)

    sys.unraisablehook = note
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # As an interpreter and `multiprocessing` do.
    except Exception as fault:
        faults.append(fault)
        traceback.print_exc()
    atexit._run_exitfuncs()
    if util := sys.modules.get("multiprocessing.util"):
        util._exit_function()
    if coverage := sys.modules.get("coverage"):
        current = coverage.Coverage.current()
        if current is not None:
            current.stop()
            current.save()
    return 1 if faults else 0
