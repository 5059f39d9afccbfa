"""A succession of forks: each step of a process is taken by a fork of it, and a bad step is as if never
taken.

*Theory of operation.*  `begin` forks.  The fork returns and takes the step; its next call (`begin`, or
`serve`) asks whether all is well.  If so, the fork has become the process, and what it was forked from ends.
If not, or if the fork is gone, `begin` returns the reason in what it was forked from, whose state is that
before the step.

The first of them is the child that others know.  It stays until the last has ended, and ends what the steps
have left behind.  Each adopts what its fork leaves: processes of a bad step end with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from pytest_elastic.multiprocessing import Channel, RunRank, become_caretaker, serve, sweep, watch_parent
from pytest_elastic.pristine import fcntl, os, select, struct
from pytest_elastic.processes import become_subreaper, children, fork

_PID = struct.Struct("!I")
_GOOD = b"\0"
_MOST = 4000  # Bytes of a reason: so many are written to a pipe at once, or not at all.


class Succession:
    """This process, step by step; it must have one thread when a step begins.

    Args:
        channel: the descriptor of the launcher's channel, at which nothing comes before `serve`.
        launcher: pid of this process's parent, with which all of them end.
        fault: asks why no step can follow, in words; `""` if one can.
    """

    def __init__(self, channel: int, launcher: int, fault: Callable[[], str]) -> None:
        os.set_inheritable(channel, False)
        self.channel, self._launcher, self._fault = Channel.of(channel), watch_parent(launcher), fault
        self._heirs, self._name_heir = os.pipe()
        self._report = -1  # To the process that this one was forked from; -1 for none.
        self._first = True
        self._end_with_launcher(True)

    def begin(self) -> str:
        """Begin a step: `""` in the fork that is to take it; the reason where it came to nothing."""
        if why := self.settle():
            return why
        become_subreaper()
        spare = frozenset(child.pid for child in children(os.getpid()))
        ours, theirs = os.pipe()
        pid = fork()
        if pid == 0:
            os.close(ours)
            self._report, self._first = theirs, False
            self._end_with_launcher(True)
            return ""
        os.close(theirs)
        pidfd = os.pidfd_open(pid)
        # Children of the fork may hold its end of the pipe open.
        said = os.read(ours, _MOST) if ours in select.select([ours, pidfd], [], [])[0] else b""
        if said == _GOOD:
            self._leave(pid)
        os.waitpid(pid, 0)
        sweep(spare)
        os.close(ours)
        os.close(pidfd)
        return said.decode("utf-8", "replace") or "the interpreter ended"

    def settle(self) -> str:
        """Ends here if the step was bad, or the launcher is gone; else why no first step can follow."""
        if select.select([self.channel.fileno(), self._launcher], [], [], 0)[0]:
            os._exit(0)
        why = self._fault()
        if self._report >= 0:
            os.write(self._report, why.encode("utf-8", "replace")[:_MOST] or _GOOD)
            if why:
                os._exit(0)
            os.close(self._report)
            self._report = -1
        return why

    def serve(self, run_rank: RunRank) -> NoReturn:
        """Be a zygote, see `serve` of `multiprocessing`."""
        self._end_with_launcher(False)
        os.close(self._heirs)
        os.close(self._name_heir)
        serve(self.channel, self._launcher, run_rank)

    def _end_with_launcher(self, on: bool) -> None:
        """Have a signal end this process when the launcher says something, or is gone: a step may hang."""
        number = self.channel.fileno()
        fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_ASYNC
        fcntl.fcntl(number, fcntl.F_SETFL, flags | (os.O_ASYNC if on else 0))

    def _leave(self, heir: int) -> NoReturn:
        """The fork is the process now: end, or be the first of all."""
        if not self._first:
            os.write(self._name_heir, _PID.pack(heir))
            os._exit(0)
        become_caretaker()
        self.channel.close()
        os.close(self._name_heir)
        while heir:
            os.waitpid(heir, 0)  # It has named its heir, which falls to us.
            named = os.read(self._heirs, _PID.size) if select.select([self._heirs], [], [], 0)[0] else b""
            heir = _PID.unpack(named)[0] if named else 0
        sweep()
        os._exit(0)
