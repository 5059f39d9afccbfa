"""The process tree: children, descendants, helpers; forks, parent-death signals and subreapers."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from typing import Any, NoReturn

from pytest_elastic.pristine import os, signal
from pytest_elastic.processes._identity import Process, command, dying, identify, parent, read_pages
from pytest_elastic.processes._threads import thread_numbers

_SET_PDEATHSIG, _GET_PDEATHSIG = 1, 2
_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37

# Helpers, by command lines.
_SERVER = re.compile(rb"from multiprocessing\.forkserver import main; main\(\d+, (\d+),")
_OTHERS = re.compile(
    rb"from [\w.]*\b(?:resource_tracker|semaphore_tracker|semlock_tracker) import main"
    rb"|^(?:[^\0]*/)?torch_shm_manager\0"
    rb"|\0[^\0]*torch/_inductor/(?:compile_worker/__main__|__autotune_main__)\.py\0"
)


def child_pids(pid: int, threads: Iterable[int] | None = None) -> list[int]:
    """The pids of its child processes, dead ones that it has not reaped included.

    Args:
        threads: the numbers of its threads, where they are known.
    """
    found: list[int] = []
    try:
        for thread in thread_numbers(pid) if threads is None else threads:
            found += map(int, read_pages(f"/proc/{pid}/task/{thread}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        import psutil

        if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):  # A kernel built without it.
            return [child.pid for child in psutil.Process(pid).children()] if psutil.pid_exists(pid) else []
    return found


def children(pid: int, threads: Iterable[int] | None = None) -> list[Process]:
    """The living child processes of a process, without its helpers; see `child_pids`."""
    found = [child for number in child_pids(pid, threads) if (child := identify(number))]
    return [child for child in found if not (dying(child.pid) or is_helper(child.pid))]


def descendants(root: int, spare: frozenset[int] = frozenset()) -> list[Process]:
    """All processes below `root`, parents before their children, but for those in and below `spare`."""
    found: list[Process] = []
    queue = child_pids(root)
    while queue:
        pid = queue.pop(0)
        if pid in spare:
            continue
        process = identify(pid)
        if process is not None:
            found.append(process)
        queue += child_pids(pid)
    return found


def left_by(pids: Collection[int]) -> list[str]:
    """Commands of the processes that these ranks have started and that still run, their helpers aside."""
    below = [process for guardian in {parent(pid) for pid in pids} for process in descendants(guardian)]
    started = [process for process in below if process.pid not in pids]
    return [command(process.pid) for process in started if not is_helper(process.pid)]


def is_helper(pid: int) -> bool:
    """Whether a process is a helper: one that Python's library, loky or torch keeps beside a program.

    A helper does no work of its own, and ends by itself when the program is gone, though on a busy machine
    not at once: it is no leak, and blocks nobody.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            line = file.read(1 << 16)
        server = _SERVER.search(line)
        if server is None:
            return _OTHERS.search(line) is not None
        # What the server has forked has its command line, but has closed the pipe by which the server sees
        # that the program is gone.  An ending server still has that, and no socket any more.
        return os.readlink(f"/proc/{pid}/fd/{int(server[1])}").startswith("pipe:")
    except OSError:
        return False


def fork() -> int:
    """`os.fork` from a process of one Python thread.

    Python warns where it sees native threads, and with warnings as errors it raises *after* the child
    exists; the idle pool threads of numerical libraries do not run in the child, which is what we rely on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def replace_program(path: str, arguments: list[str], env: Mapping[str, str]) -> NoReturn:
    """Replace the program of this process by another one, which SIGINT ends unless it says otherwise.

    A SIGINT that a handler in Python has noted, but not handled yet, is handled before: it would be lost.

    Raises:
        OSError: the program cannot be executed.
        KeyboardInterrupt: there was such a SIGINT.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execve(path, arguments, env)


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when its parent's thread ends; end at once if that is too late."""
    prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # The parent died between the fork and the line above.
        os._exit(1)


def become_subreaper() -> None:
    """Adopt every orphaned descendant, so that none can leave the tree by a double fork."""
    prctl(_SET_CHILD_SUBREAPER, 1)


def prctl(option: int, argument: Any) -> None:
    """The system call `prctl`.

    Raises:
        OSError: the kernel refuses it.
    """
    # ctypes is loaded by the processes that need it: importing it would be paid by every run of pytest.
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


@cache
def supported() -> str:
    """Why ranks cannot be contained on this system; `""` where they can.

    A container may refuse (seccomp) what kernel and Python have, so each call is tried, once.
    """
    if sys.platform != "linux":
        return f"this is {sys.platform}"
    if not os.path.exists("/proc/self/stat"):
        return "/proc is not mounted"
    # Pids of /proc would be strangers: none of what ranks leave would be found, let alone killed.
    if os.readlink("/proc/self") != str(os.getpid()):
        return "/proc is that of another PID namespace; mount one of this (unshare --pid --fork --mount-proc)"
    for name, attempt in _NEEDED.items():
        try:
            attempt()
        except (OSError, AttributeError) as error:
            return f"the system has no {name}, or refuses it, as containers may do ({error})"
    return ""


def try_pidfd_open() -> None:
    os.close(os.pidfd_open(os.getpid()))


def try_pidfd_send_signal() -> None:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def try_memfd_create() -> None:
    os.close(os.memfd_create("trial"))


def try_prctl(get: int, put: int) -> None:
    """Set what is set already."""
    import ctypes

    value = ctypes.c_int()
    prctl(get, ctypes.byref(value))
    prctl(put, value.value)


_NEEDED: dict[str, Callable[[], None]] = {
    "pidfd_open": try_pidfd_open,
    "pidfd_send_signal": try_pidfd_send_signal,
    "memfd_create": try_memfd_create,
    "parent-death signal (prctl)": partial(try_prctl, _GET_PDEATHSIG, _SET_PDEATHSIG),
    "subreaper (prctl)": partial(try_prctl, _GET_CHILD_SUBREAPER, _SET_CHILD_SUBREAPER),
}
