"""A process's identity: its pid and start time, signalled through a pidfd.

The kernel gives a pid to another process when the first one was reaped.  A pidfd that was opened before the
start time is compared refers to the process that was meant, or to none: no signal reaches a stranger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_elastic.pristine import os, select, signal
from pytest_elastic.processes._descriptors import wait_for

_PF_EXITING = 4


@dataclass(frozen=True, slots=True)
class Process:
    """A process by pid and start time (clock ticks since boot)."""

    pid: int
    started: int

    def signal(self, number: int, user: int | None = None) -> None:
        """Send it a signal; with `user`, only if it belongs to this user id.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user.
            OSError: the kernel does not know the signal, or has no descriptor left.
        """
        with self._opened() as descriptor:
            if user is not None and int(status_of(self.pid, b"Uid")[0].split()[0]) != user:
                raise PermissionError(f"process {self.pid} belongs to another user")
            signal.pidfd_send_signal(descriptor, number)

    def ended(self) -> bool:
        """Whether it has exited, reaped by its parent or not."""
        try:
            with self._opened() as descriptor:
                return wait_for(descriptor, select.POLLIN, 0)
        except ProcessLookupError:
            return True
        except OSError:  # No descriptor is left to look with: whoever kills it will see.
            return False

    @contextmanager
    def _opened(self) -> Iterator[int]:
        self._check()  # A number that is no pid never gets to the kernel.
        descriptor = os.pidfd_open(self.pid)
        try:
            self._check()
            yield descriptor
        finally:
            os.close(descriptor)

    def _check(self) -> None:
        if identify(self.pid) != self:
            raise ProcessLookupError(f"process {self.pid} has ended")


def identify(pid: int) -> Process | None:
    """The process with this pid; `None` if there is none, and for pids up to 1.

    To the kernel these are process groups and init, which nobody here may signal.
    """
    fields = stat_of(pid) if pid > 1 else []
    return Process(pid, int(fields[19])) if fields else None


_own = Process(0, 0)


def this_process() -> Process:
    """The calling process; read from /proc once, and again after a fork.

    Raises:
        ProcessLookupError: /proc is not mounted.
    """
    global _own
    pid = os.getpid()
    if _own.pid != pid:
        fields = stat_of(pid)  # In a container it may well be number 1.
        if not fields:
            raise ProcessLookupError("/proc does not show this process")
        _own = Process(pid, int(fields[19]))
    return _own


def read_page(path: str) -> bytes:
    """The first 4 KiB of a file of /proc, in half the time of `open`: the hang detector reads dozens.

    Raises:
        OSError: there is no such file, or no permission.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def read_pages(path: str) -> bytes:
    """A whole file of /proc that may be longer.

    Raises:
        OSError: there is no such file, or no permission.
    """
    descriptor, found = os.open(path, os.O_RDONLY | os.O_CLOEXEC), b""
    try:
        while page := os.read(descriptor, 4096):
            found += page
    finally:
        os.close(descriptor)
    return found


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; `[]` if there is no such process."""
    try:
        # The name in brackets may hold blanks and brackets itself.
        return read_page(f"/proc/{pid}/stat").decode("ascii", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def status_of(pid: int, *names: bytes) -> list[bytes]:
    """The values of these lines of /proc/PID/status.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        told = read_page(f"/proc/{pid}/status")
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} has ended") from None
    return [told.partition(b"\n%s:\t" % name)[2].partition(b"\n")[0] for name in names]


def this_machine() -> str:
    """What identifies this machine, as far as its processes share addresses, files, numbers and clock."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    spaces = []
    for kind in ("net", "mnt", "pid", "time"):
        try:
            spaces.append(os.readlink(f"/proc/self/ns/{kind}"))
        except OSError:  # The kernel has none of this kind.
            spaces.append("")
    return " ".join((boot, *spaces))


def state(pid: int) -> str:
    """The kernel's letter for the state of a process (`R S D T Z` ...), `""` if there is none."""
    return "".join(stat_of(pid)[:1])


def parent(pid: int) -> int:
    """The parent's pid, 0 if there is no such process."""
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def dying(pid: int) -> bool:
    """Whether a process runs none of its program any more: it is gone, killed, or being taken apart."""
    fields = stat_of(pid)
    if not fields or fields[0] in "ZX" or int(fields[6]) & _PF_EXITING:
        return True
    # Killed, it ends as soon as it gets the processor.  In state D it may be stuck.
    return fields[0] in "RT" and is_killed(pid)


def is_killed(pid: int) -> bool:
    """Whether SIGKILL is pending for a process, or it is gone."""
    try:
        pending = status_of(pid, b"SigPnd", b"ShdPnd")
    except ProcessLookupError:
        return True
    return any(int(signals, 16) >> (signal.SIGKILL - 1) & 1 for signals in pending)


def command(pid: int) -> str:
    """The command line of a process, or its name where it has none; `"?"` if it is gone."""
    import psutil  # Loaded by those who report what went wrong.

    try:
        found = psutil.Process(pid)
        return " ".join(found.cmdline()) or found.name()
    except psutil.Error:
        return "?"


def environment(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was started with.

    Raises:
        OSError: there is no such process, or no permission.
    """
    with open(f"/proc/{pid}/environ", "rb") as file:
        return dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
