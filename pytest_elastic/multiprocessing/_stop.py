"""The stop sequence: one implementation, run by the guardian of the group, whoever asks for it.

*Theory of operation.*  The guardian is a subreaper, so the descendants of the guardian are the group:
nothing that a rank started can be anywhere else, whatever sessions, double forks or environments it
made.  Three steps, each bounded:

1. `signal_all`: the death signal, then SIGCONT, to the ranks that run and what is below them.  A stopped
   rank wakes and sees it.
2. The guardian waits up to the grace for the ranks; what ends early is not waited for.
3. `sweep`: a SIGSTOP pass, so that nobody forks while we look, a SIGKILL pass, reaping, and again until
   the kernel itself says that no child is left (ECHILD).  What SIGKILL does not end within a second
   (uninterruptible sleep, another user's process) is a survivor and is named.

Nobody outside the group is ever signalled: not the launcher's process group, not a reused pid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import os, signal, time
from pytest_elastic.processes import Process, command, descendants, identify

SWEEP_LIMIT = 0.9  # With the way there and back, `close` takes its grace and a second.
_FREEZE_PASSES = 3
_LOOKS = 1800


def signal_all(signum: int, ranks: Iterable[int]) -> None:
    """Send `signum` and then SIGCONT to these children of the guardian, by pid, and to all below them."""
    for pid in ranks:
        # Nobody but the guardian reaps a rank, so that there is one by this pid.
        for process in filter(None, (identify(pid), *descendants(pid))):
            send(process, signum)
            if signum not in (signal.SIGKILL, signal.SIGSTOP):
                send(process, signal.SIGCONT)


def sweep(spare: frozenset[int] = frozenset(), limit: float = SWEEP_LIMIT) -> dict[int, str]:
    """Kill and reap every descendant of this process but `spare`; returns who is left: pid -> command.

    Blocks up to `limit` seconds, usually a few milliseconds.  Children that are reaped here are gone for
    every other waiter.
    """
    deadline = Deadline.after(limit)
    while not reap_all(spare):
        victims = freeze(spare)
        if deadline.passed():
            return {victim.pid: command(victim.pid) for victim in victims}
        for victim in victims:
            send(victim, signal.SIGKILL)
        time.sleep(limit / _LOOKS)
    return {}


def reap_all(spare: frozenset[int] = frozenset()) -> bool:
    """Reap what has ended; whether this process has no child left, dead or alive, but for `spare`."""
    while True:
        try:
            # The kernel's word (ECHILD) is final; where children are spared it cannot give it.
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return bool(spare) and not descendants(os.getpid(), spare)


def freeze(spare: frozenset[int]) -> list[Process]:
    """Stop everybody, until a look at the tree shows nobody new."""
    known: set[Process] = set()
    for _ in range(_FREEZE_PASSES):
        found = descendants(os.getpid(), spare)
        fresh = [process for process in found if process not in known]
        if not fresh:
            break
        for process in fresh:
            send(process, signal.SIGSTOP)
        known.update(fresh)
    return found


def send(process: Process, signum: int) -> None:
    """Signal a process if it is still there and may be signalled."""
    # One that took another user's identity may not: the sweep will name it as a survivor.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        process.signal(signum)
