"""The zygotes that runs without pytest share: fresh interpreters, made at their first use."""

from __future__ import annotations

from pytest_elastic.errors import GuardianError
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote
from pytest_elastic.pristine import os, threading
from pytest_elastic.processes import dying

_lock = threading.Lock()
_zygotes: dict[tuple[object, ...], Zygote] = {}


def start_group(
    starts: list[RankStart], timeout: float, preload: tuple[str, ...] = (), loop: Loop | None = None
) -> Group:
    """Have a zygote that has imported `preload` start a group; one that was killed is replaced.

    The job of each start is called with it in the rank, and gives the exit code.  A zygote idles until this
    process ends, and then ends by itself.  Blocks until the ranks exist.  Thread-safe.

    Raises:
        OSError: a rank could not be forked; none is left.
        GuardianError: no zygote could be had, or the ranks were not there after `timeout` seconds.
    """
    key = (os.getpid(), preload)  # A fork of this process needs its own.
    with _lock:
        zygote = _zygotes.get(key)
        if zygote is not None:
            try:
                return started_group(zygote, starts, timeout, loop)
            except GuardianError:
                if not dying(zygote.pid):
                    raise
                zygote.close()
        zygote = _zygotes[key] = Zygote.spawn(__name__, "do_job", preload)
        return started_group(zygote, starts, timeout, loop)


def started_group(zygote: Zygote, starts: list[RankStart], timeout: float, loop: Loop | None) -> Group:
    """Start a group and wait for it: a zygote that was just killed takes requests, but never answers."""
    group = Group(zygote.start_group(starts), loop)
    try:
        group.wait_started(timeout)
    except BaseException:
        group.close()
        raise
    return group


def do_job(start: RankStart) -> int:
    """Run the job of a rank; returns its exit code."""
    return int(start.job(start))
