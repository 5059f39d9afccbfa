"""The few things of Linux that Python has no name for: parent-death signals, subreapers, the process tree.

A pid alone names nobody for long: a `Process` is a pid with the start time of the process that had it,
and `send` signals through a pidfd after comparing the two, so that a reused pid is never hit.
"""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pytest_elastic.pristine import os, signal

PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PF_EXITING = 4
_MADV_COLLAPSE = 25
_HUGE = 2 << 20
_MOST_HUGE = 128  # A process of many gigabytes would take seconds, and twice the memory.


@cache
def supported() -> str:
    """Why ranks cannot be contained on this system; `""` where they can.

    A container may refuse what kernel and Python have (seccomp), so each call is tried, once.
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


def _try_pidfd_open() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_pidfd_send_signal() -> None:
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def _try_memfd_create() -> None:
    os.close(os.memfd_create("trial"))


def _try_prctl(get: int, put: int) -> None:
    """Set what is set already."""
    import ctypes

    value = ctypes.c_int()
    _prctl(get, ctypes.byref(value))
    _prctl(put, value.value)


_NEEDED: dict[str, Callable[[], None]] = {
    "pidfd_open": _try_pidfd_open,
    "pidfd_send_signal": _try_pidfd_send_signal,
    "memfd_create": _try_memfd_create,
    "parent-death signal (prctl)": partial(_try_prctl, _PR_GET_PDEATHSIG, PR_SET_PDEATHSIG),
    "subreaper (prctl)": partial(_try_prctl, _PR_GET_CHILD_SUBREAPER, PR_SET_CHILD_SUBREAPER),
}


@cache
def _libc() -> Any:
    # ctypes is loaded by the processes that need it: importing it would be paid by every run of pytest.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: Any) -> None:
    import ctypes

    libc = _libc()
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when its parent's thread ends; end at once if that is too late."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # The parent died between the fork and the line above.
        os._exit(1)


def become_subreaper() -> None:
    """Adopt every orphaned descendant, so that none can leave the tree by a double fork."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


@cache
def descriptor_limit() -> int:
    """How many descriptors this process may have open: the soft limit that it came with."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit() -> float:
    """Raise the soft limit of descriptors to the hard one, which is the value; `inf` for none."""
    import resource

    descriptor_limit()  # Before it is another.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return math.inf if hard == resource.RLIM_INFINITY else hard


def restore_descriptor_limit(soft: int) -> None:
    """Set the soft limit of descriptors, in a rank, to what its launcher came with."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def provide_descriptors(number: int, purpose: str) -> None:
    """See to it that so many more descriptors may be opened; raises the soft limit if it has to.

    Raises:
        OSError: the hard limit is lower; the text names limit and need.
    """
    need = len(os.listdir("/proc/self/fd")) + number
    if 0 <= descriptor_limit() < need:  # None is -1.
        _raise_limit(need, purpose)


def _raise_limit(need: int, purpose: str) -> None:
    limit = raise_descriptor_limit()
    if need > limit:
        raise OSError(
            errno.EMFILE,
            f"{purpose} need about {need} file descriptors, and the hard limit is {limit}: "
            f"raise it (`ulimit -n {need}`), or use fewer ranks",
        )


def collapse_memory() -> Iterator[None]:
    """Move this process's own memory into huge pages where the kernel can (6.1): its forks are cheaper then.

    Each step moves one page; there are at most 128.  What was moved is no longer
    shared with the process that this one was forked from.
    """
    import ctypes

    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        areas = [line.split() for line in file]
    places: list[int] = []
    for place, access, *_, name in (area if len(area) > 5 else [*area, ""] for area in areas):
        if access == "rw-p" and name in ("", "[heap]"):
            begin, end = (int(number, 16) for number in place.split("-"))
            places += range(-(-begin // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE)
    for begin in places[:_MOST_HUGE]:
        # An older kernel refuses, and so does one that has no huge page left: all goes on as it was.
        _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(_HUGE), _MADV_COLLAPSE)
        yield


@dataclass(frozen=True, slots=True)
class Process:
    """A process by pid and start time (clock ticks since boot)."""

    pid: int
    start: int

    def send(self, signum: int) -> bool:
        """Signal it; `False` if it is gone or the pid is another's now.  `PermissionError` passes."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if start_time(self.pid) != self.start:
                return False
            signal.pidfd_send_signal(descriptor, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def command(self) -> str:
        """Its command line, or its name where it has none."""
        import psutil  # Here, since only what went wrong needs it.

        try:
            found = psutil.Process(self.pid)
            return " ".join(found.cmdline()) or found.name()
        except psutil.Error:
            return "?"


def read_small(path: str) -> bytes:
    """A file of /proc that fits into a page, in half the time of `open`: a verdict reads dozens.

    Raises:
        OSError: there is no such file, or not for us.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; `[]` if there is no such process."""
    try:
        # The name in brackets may hold blanks and brackets itself.
        return read_small(f"/proc/{pid}/stat").decode("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_time(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; `None` if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def state(pid: int) -> str:
    """The kernel's letter for its state (`R S D T Z` ...), `""` if there is none."""
    return "".join(_stat(pid)[:1])


def dying(pid: int) -> bool:
    """Whether nothing of its program runs any more: it is gone, or the kernel is taking it apart."""
    fields = _stat(pid)
    if not fields or fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
        return True
    # Killed, and on its way out as soon as it gets the processor.  In D it is not: it may be stuck there.
    return fields[0] in "RT" and _is_killed(pid)


def _is_killed(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            lines = dict(line.partition(b":\t")[::2] for line in file.read().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = int(lines[b"SigPnd"], 16) | int(lines[b"ShdPnd"], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1)


def parent(pid: int) -> int:
    """The parent's pid, 0 if there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        import psutil

        if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):  # A kernel built without it.
            return [child.pid for child in psutil.Process(pid).children()] if psutil.pid_exists(pid) else []
    return found


def descendants(root: int, spare: frozenset[int] = frozenset()) -> list[Process]:
    """All processes below `root`, parents before their children, but for those in and below `spare`."""
    found: list[Process] = []
    queue = _children(root)
    while queue:
        pid = queue.pop(0)
        if pid in spare:
            continue
        start = start_time(pid)
        if start is not None:
            found.append(Process(pid, start))
        queue += _children(pid)
    return found
