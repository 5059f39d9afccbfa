"""Thread pools of native libraries (OpenMP and others), and which of them a fork would lose.

*Rules.*  A fork takes no thread along.  A library that knows this ends its pool before each fork, as
OpenBLAS does: so a trial fork tells it from the others.  What is alive after that is missed in a fork, which
hands work to it and waits for ever.  An idle pool of torch's is no such one where its ranks are told to use
one thread: each thread of GNU's OpenMP waits in the very copy of the library that it belongs to.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pytest_elastic.multiprocessing._guardian import fork
from pytest_elastic.pristine import os, time

_PERIOD, _LOOKS = 0.005, 100  # Threads of OpenMP spin for a while before they wait.


def lost_by_fork(threads: set[int], harmless: str) -> list[str]:
    """What is known of those among these threads that a fork would lose, each once.

    Args:
        threads: the kernel's numbers of some of this process.
        harmless: directory of libraries whose idle threads nobody will miss, `""` for none.
    """
    if not threads:
        return []
    pid = fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # Somebody else reaps all children.
        os.waitpid(pid, 0)
    found = set()
    for thread in threads:
        with contextlib.suppress(OSError):  # It has ended.
            name = Path(f"/proc/self/task/{thread}/comm").read_text("utf-8", "replace").strip()
            library = _library_of(thread)
            if not harmless or not library.startswith(harmless):
                found.add(f"{name} in {os.path.basename(library) or 'the middle of its work'}")
    return sorted(found)


def _library_of(thread: int) -> str:
    """The file that holds the code in which a thread waits for the kernel; `""` if it does not wait."""
    for _ in range(_LOOKS):
        words = Path(f"/proc/self/task/{thread}/syscall").read_text("ascii").split()
        if len(words) > 1:
            return _file_at(int(words[-1], 16))
        time.sleep(_PERIOD)
    return ""


def _file_at(address: int) -> str:
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        place, *_, file = line.split(maxsplit=5)
        begin, end = (int(number, 16) for number in place.split("-"))
        if begin <= address < end:
            return file
    return ""
