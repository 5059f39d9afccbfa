"""The zygotes that runs without pytest share: fresh interpreters, made at their first use."""

from __future__ import annotations

import os
import threading

from pytest_elastic.errors import GuardianError
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote

_lock = threading.Lock()
_zygotes: dict[tuple[object, ...], Zygote] = {}


def start_group(starts: list[RankStart], preload: tuple[str, ...] = ()) -> Channel:
    """Have a zygote that has imported `preload` start a group; one that was killed is replaced.

    The job of each start is called with it in the rank, and gives the exit code.  A zygote idles until this
    process ends, and then ends by itself.  Thread-safe.

    Raises:
        GuardianError: no zygote could be had.
    """
    key = (os.getpid(), preload)  # A fork of this process needs its own.
    with _lock:
        zygote = _zygotes.get(key)
        if zygote is not None:
            try:
                return zygote.start_group(starts)
            except GuardianError:
                zygote.close()
        zygote = _zygotes[key] = Zygote.spawn(__name__, "do_job", preload)
        return zygote.start_group(starts)


def do_job(start: RankStart) -> int:
    """In the rank."""
    return int(start.job(start))
