"""Thread pools of native libraries (OpenMP and others), and which of them a fork would lose.

*Rules.*  A fork takes no thread along.  A library that knows this ends its pool before each fork, as
OpenBLAS does: so a trial fork tells it from the others.  What is alive after that is missed in a fork, which
hands work to it and waits for ever.  An idle pool of torch's is no such one where its ranks are told to use
one thread: each thread of GNU's OpenMP waits in the very copy of the library that it belongs to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pytest_elastic.multiprocessing._guardian import fork
from pytest_elastic.pristine import os, struct, time

_PERIOD, _LOOKS = 0.005, 100  # Threads of OpenMP spin for a while before they wait.
_LIBC = ("libc.", "libc-", "libpthread", "ld-")
_STACK, _WORD = 4096, struct.calcsize("N")  # Bytes: of it that are searched, and of an address.


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
    """The file that holds the code which has a thread wait for the kernel; `""` if it does not wait."""
    for _ in range(_LOOKS):
        words = Path(f"/proc/self/task/{thread}/syscall").read_text("ascii").split()
        if len(words) > 1:
            stack, instruction = (int(word, 16) for word in words[-2:])
            return _caller(stack, instruction)
        time.sleep(_PERIOD)
    return ""


def _caller(stack: int, instruction: int) -> str:
    """The file of an instruction; of the next return address on the stack where that is C's own library."""
    code = list(_code())

    def file_at(address: int) -> str:
        return next((file for begin, end, file in code if begin <= address < end), "")

    first = file_at(instruction)
    if os.path.basename(first).startswith(_LIBC):
        with open("/proc/self/mem", "rb", buffering=0) as memory, contextlib.suppress(OSError):
            words = os.pread(memory.fileno(), _STACK, stack)
            for (address,) in struct.iter_unpack("N", words[: len(words) // _WORD * _WORD]):
                file = file_at(address)
                if file and not os.path.basename(file).startswith(_LIBC):
                    return file
    return first


def _code() -> Iterator[tuple[int, int, str]]:
    """Begin, end and file of what this process has mapped to be executed."""
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        place, rights, *_, file = line.split(maxsplit=5)
        if "x" in rights and file.startswith("/"):
            begin, end = (int(number, 16) for number in place.split("-"))
            yield begin, end, file
