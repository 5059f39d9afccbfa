"""The zygotes that runs without pytest share: fresh interpreters, made at their first use, one per job."""

from __future__ import annotations

import os
import threading

from pytest_elastic.errors import GuardianError
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote

_lock = threading.Lock()
_zygotes: dict[tuple[object, ...], Zygote] = {}


def start_group(
    module: str, function: str, starts: list[RankStart], preload: tuple[str, ...] = ()
) -> Channel:
    """Have the zygote for this function start a group; one that was killed is replaced.

    A zygote idles until this process ends, and then ends by itself.  Thread-safe.

    Raises:
        GuardianError: no zygote could be had.
    """
    key = (os.getpid(), module, function, preload)  # A fork of this process needs its own.
    with _lock:
        zygote = _zygotes.get(key)
        if zygote is not None:
            try:
                return zygote.start_group(starts)
            except GuardianError:
                zygote.close()
        zygote = _zygotes[key] = Zygote.spawn(module, function, preload)
        return zygote.start_group(starts)
