"""Bounds in wall time that hold on a busy machine."""

from __future__ import annotations

import math
import os
from pathlib import Path


def late(seconds: float, below: float = math.inf) -> float:
    """An upper bound for what takes less than `seconds` on an idle machine.

    It grows with the number of processes that want to run, for each processor.  Call it when the time is over:
    the load of that moment counts, not only that of the last minute.  It stays below `below`, what must not
    have been waited for.
    """
    try:
        running = int(Path("/proc/loadavg").read_text("ascii").split()[3].partition("/")[0])
        load = max(os.getloadavg()[0], running) / (os.cpu_count() or 1)
    except OSError:  # The test has used up the descriptors.
        load = math.inf
    return min(seconds * min(max(1.0, load), 8.0), below)
