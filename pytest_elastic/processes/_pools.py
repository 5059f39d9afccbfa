"""Thread pools of native libraries (OpenMP and others) that a fork would lose, and memory that a fork copies.

*Rules.*  A fork takes no thread along.  A library that knows this ends its pool before each fork, as
OpenBLAS does: so a trial fork tells it from the others.  A pool that is alive after that is missing in a
fork, which hands work to it and waits for ever.  An idle pool of torch's does no harm where its ranks are
told to use one thread: each thread of GNU's OpenMP waits in the very copy of the library that it belongs to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_elastic.pristine import os, struct, time
from pytest_elastic.processes._identity import read_page
from pytest_elastic.processes._tree import fork

_PERIOD, _LOOKS = 0.005, 100  # Threads of OpenMP spin for a while before they wait.
_LIBC = ("libc.", "libc-", "libpthread", "ld-")
_STACK, _WORD = 4096, struct.calcsize("N")  # Bytes: of it that are searched, and of an address.
_MADV_COLLAPSE = 25
_HUGE = 2 << 20
_MOST_HUGE = 128  # A process of many gigabytes would take seconds, and twice the memory.


def lost_by_fork(threads: set[int], harmless: str) -> list[str]:
    """Those among these threads that a fork would lose, in words, each once.

    Args:
        threads: the kernel's numbers of some threads of this process.
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
            name = read_page(f"/proc/self/task/{thread}/comm").decode("utf-8", "replace").strip()
            library = library_of(thread)
            if not harmless or not library.startswith(harmless):
                found.add(f"{name} in {os.path.basename(library) or 'the middle of its work'}")
    return sorted(found)


def library_of(thread: int) -> str:
    """The file that holds the code which has a thread wait for the kernel; `""` if it does not wait."""
    for _ in range(_LOOKS):
        words = read_page(f"/proc/self/task/{thread}/syscall").split()
        if len(words) > 1:
            stack, instruction = (int(word, 16) for word in words[-2:])
            return caller_file(stack, instruction)
        time.sleep(_PERIOD)
    return ""


def caller_file(stack: int, instruction: int) -> str:
    """The file of an instruction; of the next return address on the stack where that is C's own library."""
    code = list(code_mappings())

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


def code_mappings() -> Iterator[tuple[int, int, str]]:
    """Begin, end and file of what this process has mapped to be executed."""
    for begin, end, access, file in mappings():
        if "x" in access and file.startswith("/"):
            yield begin, end, file


def collapse_memory() -> Iterator[None]:
    """Move this process's own memory into huge pages where the kernel can (6.1): its forks are cheaper then.

    Each step moves one page; there are at most 128.  What was moved is no longer
    shared with the process that this one was forked from.
    """
    import ctypes

    advise = ctypes.CDLL(None).madvise
    places: list[int] = []
    for begin, end, access, name in mappings():
        if access == "rw-p" and name in ("", "[heap]"):
            places += range(-(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE)
    for place in places[:_MOST_HUGE]:
        # An older kernel refuses, and so does one that has no huge page left: all goes on as it was.
        advise(ctypes.c_void_p(place), ctypes.c_size_t(_HUGE), _MADV_COLLAPSE)
        yield


def mappings() -> list[tuple[int, int, str, str]]:
    """What this process has mapped: begin, end, access, file (`""` for none)."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            place, access, _, _, _, *name = line.split(maxsplit=5)
            begin, end = (int(number, 16) for number in place.split("-"))
            found.append((begin, end, access, name[0].rstrip("\n") if name else ""))
    return found
