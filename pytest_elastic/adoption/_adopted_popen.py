"""`AdoptedPopen`: what `multiprocessing` asks of a process that it has started, answered by a guardian.

*Theory of operation.*  The process is a group of one: a zygote forks its guardian, which forks it.  It holds
one end of a pipe until its end, and the other is the sentinel, as with spawn: so the sentinel is ready when
the process has ended, and the guardian has told its exit code by then, or is about to.
"""

from __future__ import annotations

import multiprocessing.connection
import multiprocessing.resource_tracker
import multiprocessing.util
from contextlib import closing
from pathlib import Path
from typing import Any

from pytest_elastic.adoption._adopted_process import AdoptedProcess
from pytest_elastic.adoption._family import Member
from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.launch import DUMP_SIGNAL
from pytest_elastic.multiprocessing import Group, RankStart, Zygote, parcel_of_process, started_group
from pytest_elastic.pristine import os, signal

_START_LIMIT = 60.0
_TELLING = 5.0  # Seconds for a guardian's word, when its process has ended.


class AdoptedPopen:
    """The `Popen` of an adopted process.

    Args:
        process: a process object of the standard library.
        method: of its context.
        zygote: that forks it.
        directory: for its files; must not exist.
        member: its place in a family; `None` where nobody looks at what ranks do.

    Attributes:
        pid: of the process.
        name: of the process object.
        target: of the process, by name; the class of a process object that has none.
        sentinel: a descriptor that is readable once the process has ended.
        returncode: exit code, -n for signal n, `None` while it runs.
        directory: as given; its `stacks.log` is the file to which it writes its stacks.
        began, ended: on the monotonic clock; the latter is `None` until the end is known.

    Raises:
        OSError, GuardianError: no process could be had.
        Exception: whatever pickling the process object raises.
    """

    def __init__(
        self, process: Any, method: str, zygote: Zygote, directory: Path, member: Member | None
    ) -> None:
        self.method, self.name, self.directory = method, str(process.name), directory
        target = getattr(process, "_target", None) or type(process)
        self.target = str(getattr(target, "__qualname__", type(target).__qualname__))
        self.returncode: int | None = None
        self.began = SYSTEM_CLOCK.monotonic()
        self.ended: float | None = None
        multiprocessing.resource_tracker.getfd()  # One for both, so that it ends with the last of them.
        directory.mkdir(parents=True)
        job = AdoptedProcess(os.getpid(), method, dict(os.environ), str(directory / "stacks.log"))
        self.member = member
        with closing(parcel_of_process(self.name, process)) as parcel:
            self.sentinel, theirs = os.pipe()
            # Of the process object, as with spawn: the books of a test hold this one longer.
            self._open = True
            self.finalizer = multiprocessing.util.Finalize(process, self._close_sentinel)
            try:
                descriptors = {**parcel.descriptors(), "sentinel": theirs, "stdout": 1, "stderr": 2}
                if member is not None:
                    descriptors["family"] = member.theirs.fileno()
                start = RankStart(0, {}, "", "", job, descriptors)
                self.group: Group = started_group(zygote, [start], _START_LIMIT, None)
            except BaseException:
                self.finalizer()
                raise
            finally:
                os.close(theirs)
        self.pid = self.group.pids[0]
        if member is not None:
            member.theirs.close()
            member.started(self)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, `None` while the process runs; blocks for its end if `flag` is 0."""
        if self.returncode is None:
            if flag == 0 or self._has_ended(0):
                self._wait_told(None if flag == 0 else _TELLING)
            else:
                self.group.take()
            self._learn()
        return self._known()

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; `None` if the process still runs after `timeout` seconds."""
        if self.returncode is None:
            if not self._has_ended(timeout):
                return self.poll()
            return self.poll(0)
        return self._known()

    def interrupt(self) -> None:
        """Send SIGINT."""
        self._send(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def dump(self) -> None:
        """Have it write the stacks of its threads; does not block."""
        self.signal(DUMP_SIGNAL)

    def signal(self, signum: int) -> None:
        """Send a signal, if it runs; does not block."""
        self.group.signal((0,), signum)

    def learn_end(self) -> None:
        """It has ended: have its exit code; blocks for seconds at most."""
        self._wait_told(_TELLING)
        self._learn()
        self._known()

    def _known(self) -> int | None:
        """The exit code; who knows it finds nothing left of what looked after the process."""
        if self.returncode is not None and self.member is not None:
            self.member.leave()
        return self.returncode

    def close(self) -> None:
        """Let go of the sentinel."""
        self.finalizer()

    def _has_ended(self, timeout: float | None) -> bool:
        return self._open and bool(multiprocessing.connection.wait([self.sentinel], timeout))

    def _close_sentinel(self) -> None:
        self._open = False
        os.close(self.sentinel)

    def _send(self, signum: int) -> None:
        if self.poll() is None:
            self.signal(signum)

    def _wait_told(self, limit: float | None) -> None:
        deadline = Deadline.after(limit)
        while 0 not in self.group.exits and not self.group.over and not deadline.passed():
            self.group.take(deadline.remaining())

    def _learn(self) -> None:
        if 0 in self.group.exits:
            end = self.group.exits[0]
            self.returncode, self.ended = end.exitcode, end.at
        elif self.group.over:  # The guardian was killed, and the kernel has killed its process.
            self.returncode, self.ended = -signal.SIGKILL, SYSTEM_CLOCK.monotonic()
