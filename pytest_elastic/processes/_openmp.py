"""Pools of OpenMP: ended before a fork, they are made anew by whoever needs them, on both sides.

*Rules.*  GNU's OpenMP knows of no forks: a child counts on the threads of its parent and waits for them for
ever.  OpenMP 5.0 has a call that gives threads back until the next parallel region; each runtime that is
loaded has to be asked, as wheels bring copies of their own.  A runtime without that call, or one that is in
the middle of a parallel region, keeps its pool.
"""

from __future__ import annotations

import contextlib
import re

from pytest_elastic.pristine import os

_RUNTIMES = re.compile(r"lib(gomp|iomp5|omp)[-.]")  # Of GNU, Intel, LLVM, also as wheels rename them.
_HARD = 2  # omp_pause_hard


def pause_openmp() -> list[str]:
    """End the idle pools of all OpenMP runtimes in this process that the calling thread has used.

    Only for a process whose threads live: in a fork it would wait for those that are gone.

    Returns:
        The files of the runtimes that did so.
    """
    files = openmp_runtimes()
    if not files:
        return []
    import ctypes

    paused = []
    for file in files:
        # Another file is at that path by now, or a runtime older than OpenMP 5.0.
        with contextlib.suppress(OSError, AttributeError):
            runtime = ctypes.CDLL(file, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            if runtime.omp_pause_resource_all(_HARD) == 0:
                paused.append(file)
    return paused


def openmp_runtimes() -> list[str]:
    """The files of the OpenMP runtimes that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        files = {line[line.index("/") :].rstrip("\n") for line in maps if "/" in line}
    return sorted(file for file in files if _RUNTIMES.match(os.path.basename(file)))
