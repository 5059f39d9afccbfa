"""Thread pools of native libraries (OpenMP and others) that a fork would lose, and memory that a fork copies.

*Rules.*  A fork takes no thread along.  A library that knows this ends its pool before each fork, as
OpenBLAS does: so a trial fork tells it from the others.  OpenMP's pools are ended by request (`_openmp`).  A
pool that is alive after that is missing in a fork, which hands work to it and waits for ever, unless the
library makes another one there: `_POOLS` has those that do.  Idle threads of torch's do no harm where its
ranks are told to use one thread.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_elastic.pristine import os, struct, time
from pytest_elastic.processes._identity import read_page
from pytest_elastic.processes._openmp import pause_openmp
from pytest_elastic.processes._tree import fork

_PERIOD, _LOOKS = 0.005, 100  # Threads of OpenMP spin for a while before they wait.
_LIBC = ("libc.", "libc-", "libpthread", "ld-", "libstdc++")  # In them threads wait for others.
_STACK, _WORD = 4096, struct.calcsize("N")  # Bytes: of it that are searched, and of an address.
_MADV_COLLAPSE = 25
_HUGE = 2 << 20
_MOST_HUGE = 128  # A process of many gigabytes would take seconds, and twice the memory.


@dataclass(frozen=True, slots=True)
class Pool:
    """Threads of a known library.

    Attributes:
        thread, library: how the thread's name and its library's file name begin.
        owner: the library, as its users call it; `""` for a pool that a fork does without.
        why: what becomes of it in a fork.
    """

    thread: str
    library: str
    owner: str
    why: str


_POOLS = (
    Pool(
        "", "_polars_runtime", "polars", "pools of rayon and tokio, and jemalloc, are made once in a process"
    ),
    Pool("polars-", "", "polars", "a pool of rayon, made once in a process"),
    Pool("", "libjax_common", "jax", "pools of XLA's client, which is made once in a process"),
    Pool("tf_XLA", "", "XLA (jax or tensorflow)", "a pool of Eigen, made once for each client"),
    Pool("tokio-", "", "tokio", "a runtime is made once, and its users wait for its threads"),
    Pool("rayon", "", "rayon", "the global pool is made once in a process"),
    Pool("jemalloc_bg_thd", "", "", "jemalloc starts it again in the fork"),
    Pool("", "libarrow", "", "arrow makes its pools anew in the fork"),
    Pool("", "interpreter.cpython", "", "numexpr sees another pid, and makes its pool anew"),
    Pool("", "libc10.", "torch", "the pool between operations is made once in a process"),
    Pool("", "libtorch_cpu", "", "torch's pthreadpool is dropped in the fork, and made anew"),
)


def lost_by_fork(threads: set[int], harmless: str) -> list[str]:
    """Those among these threads that a fork would lose, in words, each library once.

    OpenMP's idle pools are ended before.

    Args:
        threads: the kernel's numbers of some threads of this process.
        harmless: directory of libraries whose idle threads nobody will miss, `""` for none.
    """
    if not threads:
        return []
    pause_openmp()
    pid = fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # Somebody else reaps all children.
        os.waitpid(pid, 0)
    found = set()
    for thread in threads:
        with contextlib.suppress(OSError):  # It has ended.
            name = read_page(f"/proc/self/task/{thread}/comm").decode("utf-8", "replace").strip()
            libraries = libraries_of(thread)
            if not harmless or not libraries[:1] or not libraries[0].startswith(harmless):
                found.add(owner_of(name, [os.path.basename(file) for file in libraries]))
    return sorted(found - {""})


def ended_by_fork() -> str:
    """What libraries did here, in words, that no fork survives, whatever threads there are; or `""`."""
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    with contextlib.suppress(AttributeError):  # It is still being imported.
        if torch is not None and torch.cuda.is_initialized():
            return "CUDA was initialised while the tests were collected"
    with contextlib.suppress(AttributeError, ValueError):  # Likewise; or no parallel loop ran.
        # This layer ends a process that it sees for the first time after it ran in another one.
        if numba is not None and numba.threading_layer() == "omp":
            return "numba ran a parallel loop on OpenMP, and ends every fork that runs another"
    return ""


def owner_of(thread: str, libraries: Sequence[str]) -> str:
    """Whose a thread is that a fork would lose, in words; `""` for one that is not missed there.

    Args:
        thread: its name.
        libraries: names of the files that `libraries_of` found.
    """
    for pool in _POOLS:
        if thread.startswith(pool.thread) and any(name.startswith(pool.library) for name in [*libraries, ""]):
            return pool.owner
    return f"{next(iter(libraries), 'a library at work')} ({thread})"


def libraries_of(thread: int) -> list[str]:
    """The files of the code that has a thread wait for the kernel, the nearest first; none while it runs.

    A stack keeps what earlier calls left on it, so files are among them that the thread has passed through.
    """
    for _ in range(_LOOKS):
        words = read_page(f"/proc/self/task/{thread}/syscall").split()
        if len(words) > 1:
            stack, instruction = (int(word, 16) for word in words[-2:])
            return callers_files(stack, instruction)
        time.sleep(_PERIOD)
    return []


def callers_files(stack: int, instruction: int) -> list[str]:
    """The file of an instruction, where that is not C's own library, and those of addresses on the stack."""
    code = list(code_mappings())

    def file_at(address: int) -> str:
        return next((file for begin, end, file in code if begin <= address < end), "")

    found = [first := file_at(instruction)]
    with open("/proc/self/mem", "rb", buffering=0) as memory, contextlib.suppress(OSError):
        words = os.pread(memory.fileno(), _STACK, stack)
        found += [
            file_at(address) for (address,) in struct.iter_unpack("N", words[: len(words) // _WORD * _WORD])
        ]
    named = [file for file in dict.fromkeys(found) if file]
    return [file for file in named if not os.path.basename(file).startswith(_LIBC)] or [first]


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
