"""Helpers: processes that Python's library, loky and torch keep beside a program, and that end with it.

They are nobody's leak and nobody's hang: a helper does no work of its own, and ends by itself when the
program is gone, though on a busy machine not at once.  This is the one list of them, by command lines.
"""

from __future__ import annotations

import re

from pytest_elastic.pristine import os

_SERVER = re.compile(rb"from multiprocessing\.forkserver import main; main\((\d+),")
_OTHERS = re.compile(
    rb"from [\w.]*\b(?:resource_tracker|semaphore_tracker|semlock_tracker) import main"
    rb"|^(?:[^\0]*/)?torch_shm_manager\0"
    rb"|\0[^\0]*torch/_inductor/(?:compile_worker/__main__|__autotune_main__)\.py\0"
)


def is_helper(pid: int) -> bool:
    """Whether the process is one, as far as we may look."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            command = file.read(1 << 16)
        server = _SERVER.search(command)
        if server is None:
            return _OTHERS.search(command) is not None
        # What it has forked has its command line, but has closed the socket at which it listens.
        return os.readlink(f"/proc/{pid}/fd/{int(server[1])}").startswith("socket:")
    except OSError:
        return False
