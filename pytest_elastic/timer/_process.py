"""Whose timer it is: a process by pid and start time, signalled through a pidfd.

A pid alone names nobody for long.  A pidfd that was opened before the start time is compared refers to the
process that was meant, or to none: a pid that was used again in between is never hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pytest_elastic.pristine import os, select, signal


@dataclass(frozen=True, slots=True)
class Process:
    """A process by pid and start time (clock ticks since boot)."""

    pid: int
    started: int

    def signal(self, number: int) -> None:
        """Send it the signal.

        Raises:
            ProcessLookupError: it has ended.
            PermissionError: it belongs to another user, whom not even root's server signals.
            OSError: the kernel does not know the signal, or has no descriptor left.
        """
        with self._opened() as descriptor:
            if _user(self.pid) != os.getuid():
                raise PermissionError(f"process {self.pid} belongs to another user")
            signal.pidfd_send_signal(descriptor, number)

    def ended(self) -> bool:
        """Whether it has exited, reaped by its parent or not."""
        try:
            with self._opened() as descriptor:
                return wait_for(descriptor, select.POLLIN, 0)
        except ProcessLookupError:
            return True
        except OSError:  # No descriptor is left to look with: who kills it will see.
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
    """The process that has this pid now; `None` if there is none, or if it is not one to be timed.

    Numbers up to 1 are process groups and init to the kernel, and never somebody's timer.
    """
    if pid <= 1:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name in brackets may hold blanks and brackets itself.
            return Process(pid, int(file.read().rpartition(b")")[2].split()[19]))
    except (FileNotFoundError, ProcessLookupError):
        return None


_own = Process(0, 0)


def this_process() -> Process:
    """The calling process; asked of the kernel once, and again after a fork.

    Raises:
        ProcessLookupError: /proc is not mounted.
    """
    global _own
    pid = os.getpid()
    if _own.pid != pid:
        found = identify(pid)
        if found is None:
            raise ProcessLookupError("/proc does not show this process")
        _own = found
    return _own


def wait_for(descriptor: int, event: int, timeout: float) -> bool:
    """Wait until `select.POLLIN` or `POLLOUT` is seen on it, for `timeout` seconds; whether it was."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(timeout * 1000))


def _user(pid: int) -> int:
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        return int(file.read().partition(b"\nUid:")[2].split()[0])
