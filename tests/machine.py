"""Bounds in wall time that hold on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path


def late(seconds: float) -> float:
    """An upper bound for what takes less than `seconds` on an idle machine.

    It grows with the number of processes that want to run, for each processor.  Call it when the time is over:
    the load of that moment counts, not only that of the last minute.
    """
    running = int(Path("/proc/loadavg").read_text("ascii").split()[3].partition("/")[0])
    load = max(os.getloadavg()[0], running) / (os.cpu_count() or 1)
    return seconds * min(max(1.0, 2 * load), 20.0)
