"""The guardian of one group: starts its ranks, watches them, and answers for all that they start.

*Theory of operation.*  A guardian is a fork of a zygote (`_zygote`).  It is single-threaded, adopts
every orphan (`PR_SET_CHILD_SUBREAPER`) and forks the ranks, so that its descendants are exactly the
group.  It waits for four things at once:

* the launcher's process (a pidfd) and the launcher's end of the control channel.  When either is gone,
  the group is swept at once: ranks do not outlive the launcher, not even its SIGKILL;
* a pidfd for every rank: an exit is known when it happens, and no inherited pipe can hide it;
* commands: a signal for some ranks, or the stop sequence (`_stop`).

When a rank has ended, what is left of its process group and session gets `LINGER` to end by itself
(helpers such as a resource tracker do), and when the last one has ended, so does all else.  What stays is
a leak: named, then killed.  (Whose a process in a session of its own is cannot be told while ranks run.)
Helpers, and what belongs to a rank that the launcher ended, are killed without a word.
A stop signals the ranks that run and what is below them, and no leak.
The last message, `Ended`, is sent when the kernel has said that no process is left.  It takes long to take
apart one that has mapped much memory: what is dying is waited for, since it is no survivor and does nothing.

A rank is killed by the kernel when its guardian dies (`PR_SET_PDEATHSIG`).  What the ranks had started
then falls to the zygote, which adopts and sweeps it.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._job_control import reclaim_terminal, remember_launcher
from pytest_elastic.multiprocessing._messages import (
    Dying,
    Ended,
    Leak,
    RankExited,
    RankStart,
    Started,
    StartFailed,
    Stop,
)
from pytest_elastic.multiprocessing._rankside import lead
from pytest_elastic.multiprocessing._stop import reap_all, send, signal_all, sweep
from pytest_elastic.pristine import os, select, signal
from pytest_elastic.processes import (
    Process,
    become_subreaper,
    command,
    descendants,
    die_with_parent,
    dying,
    environment,
    fork,
    is_helper,
    raise_descriptor_limit,
    restore_descriptor_limit,
)

LINGER = 0.2
DYING_LIMIT = 30.0
_ENDING = (signal.SIGTERM, signal.SIGKILL)  # Commands that a rank is not expected to outlive.
# Terminal and service signals are for the launcher; its guardian ends by what the launcher does.
_LEFT_TO_LAUNCHER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


RunRank = Callable[[RankStart], int]
_on_child: Any = signal.SIG_DFL  # What the launcher does about SIGCHLD, for the ranks.


def guard(starts: list[RankStart], control: Channel, launcher: int, run_rank: RunRank) -> NoReturn:
    """Be the guardian of these ranks until none is left; ends the process.

    Args:
        starts: one for each rank.
        control: to the launcher.
        launcher: pidfd of the launcher's process.
        run_rank: what a rank does; its value is the rank's exit code.
    """
    pids: dict[int, int] = {}
    for start in starts:
        try:
            pids[start.rank] = fork_rank(start, starts, (control.fileno(), launcher), run_rank)
        except OSError as error:
            sweep()
            control.send(StartFailed(start.rank, error))
            os._exit(1)
    close_all(start.descriptors for start in starts)
    guardian = Guardian(pids, control, launcher)
    guardian.tell(Started(pids))
    guardian.watch()
    os._exit(0)


class Guardian:
    """A guardian's loop and what it knows of its ranks.

    Args:
        pids: rank -> pid.
        control: to the launcher.
        launcher: pidfd of the launcher's process.
    """

    def __init__(self, pids: dict[int, int], control: Channel, launcher: int) -> None:
        self.pids, self.control, self.launcher = pids, control, launcher
        self.alive = {os.pidfd_open(pid): rank for rank, pid in pids.items()}
        self.grace = Deadline.after(None)
        self.left: dict[int, Deadline] = {}  # pid of an ended rank -> until when its children may run.
        self.leaks: dict[int, Leak] = {}
        self.stopped: set[int] = set()  # Ranks that the launcher has told to end.
        self.poll = select.poll()
        for descriptor in (control.fileno(), launcher, *self.alive):
            self.poll.register(descriptor, select.POLLIN)

    def watch(self) -> None:
        """Guard until no process of the group is left."""
        while self.alive and not self.grace.passed():
            self.step(min((self.grace, *self.left.values()), key=lambda deadline: deadline.at))
            self.kill_left()
        if not self.alive:
            self.linger()
        self.note_leaks(self.unattended())
        survivors = sweep()
        if survivors and all(map(dying, survivors)):
            self.tell(Dying())
            survivors = sweep(limit=DYING_LIMIT)
        # The sweep may have reaped ranks before their pidfd was looked at: they died by its SIGKILL.
        for rank in self.alive.values():
            if self.pids[rank] not in survivors:
                self.tell(RankExited(rank, -signal.SIGKILL, SYSTEM_CLOCK.monotonic()))
        self.tell(Ended(tuple(self.leaks.values()), survivors))

    def tell(self, message: object) -> None:
        """Send a message to the launcher; without one, the group is swept."""
        try:
            self.control.send(message)
        except OSError:
            self.abandon()

    def step(self, deadline: Deadline) -> None:
        """Wait for the next event until the deadline, and handle it."""
        left = deadline.remaining()
        for descriptor, _ in self.poll.poll(None if left == math.inf else left * 1000):
            if descriptor in self.alive:
                self.collect(descriptor)
            elif descriptor == self.launcher:
                self.abandon()
            else:
                self.obey()

    def collect(self, descriptor: int) -> None:
        """Reap the rank with this pidfd, and report its exit."""
        at = SYSTEM_CLOCK.monotonic()
        rank = self.alive.pop(descriptor)
        self.poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(self.pids[rank], 0)
        self.left[self.pids[rank]] = Deadline.after(LINGER)
        self.tell(RankExited(rank, os.waitstatus_to_exitcode(status), at))

    def obey(self) -> None:
        """Carry out the launcher's commands."""
        for order, _ in self.control.receive():
            if isinstance(order, Stop):
                self.grace = self.grace.earlier(Deadline.after(order.grace))
                self.stopped.update(self.alive.values())
                if order.grace > 0:
                    # Whether a rank has ended when this arrives is chance: what it left must not end by the
                    # signal, unnamed.
                    signal_all(order.signum, [self.pids[rank] for rank in self.alive.values()])
            else:
                for descriptor, rank in self.alive.items():
                    if rank in order.ranks:
                        self.stopped |= {rank} if order.signum in _ENDING else set()
                        signal.pidfd_send_signal(descriptor, order.signum)
        if self.control.closed:
            self.abandon()

    def kill_left(self) -> None:
        """Kill what ended ranks have left behind, once its time to end is over."""
        groups = {pid for pid, until in self.left.items() if until.passed()}
        if groups:
            self.left = {pid: until for pid, until in self.left.items() if pid not in groups}
            theirs = [
                process for process in self.unattended() if not groups.isdisjoint(groups_of(process.pid))
            ]
            self.note_leaks(theirs)
            for process in theirs:
                send(process, signal.SIGKILL)

    def linger(self) -> None:
        """Wait for the end of all else, after that of the last rank."""
        deadline = Deadline.after(LINGER).earlier(self.grace)
        self.poll.unregister(self.control.fileno())
        while not reap_all():
            if deadline.passed():
                return
            if self.poll.poll(5):
                self.abandon()

    def unattended(self) -> list[Process]:
        """All processes of the group but the live ranks and their descendants."""
        spare = frozenset(self.pids[rank] for rank in self.alive.values())
        found = descendants(os.getpid(), spare)
        return [process for process in found if not dying(process.pid)]

    def note_leaks(self, leaks: list[Process]) -> None:
        """Record those of these processes that are leaks: no helpers, and not of a stopped rank."""
        ranks = {pid: rank for rank, pid in self.pids.items()}
        for process in leaks:
            owner = owner_of(process.pid, ranks)
            owners = self.pids.keys() if owner is None else {owner}
            if not (owners <= self.stopped or is_helper(process.pid)):
                self.leaks.setdefault(process.pid, Leak(process.pid, command(process.pid), owner))

    def abandon(self) -> NoReturn:
        """Sweep the group and end, as the launcher is gone."""
        sweep()
        reclaim_terminal(self.pids.values())
        os._exit(1)


def groups_of(pid: int) -> tuple[int, ...]:
    """The process group and the session of a process; none if it is gone."""
    try:
        return os.getpgid(pid), os.getsid(pid)
    except ProcessLookupError:
        return ()


def owner_of(pid: int, ranks: dict[int, int]) -> int | None:
    """The rank that started a process: by its process group, else by its environment."""
    try:
        group = os.getpgid(pid)
        if group in ranks:
            return ranks[group]
        return int(environment(pid)[b"RANK"])
    except (OSError, KeyError, ValueError):
        return None


def fork_rank(start: RankStart, starts: list[RankStart], ours: tuple[int, ...], run_rank: RunRank) -> int:
    guardian = os.getpid()
    # What is sent to the rank before it has handlers of its own waits, and is not ignored as here.
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_LAUNCHER)
    try:
        pid = fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_LAUNCHER)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_LAUNCHER)
        # The rank does it too: whoever comes first, nobody sees it in its guardian's group.
        if not start.session:
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
        return pid
    in_child(lambda: be_rank(start, starts, guardian, ours, run_rank))


def be_rank(
    start: RankStart, starts: list[RankStart], guardian: int, ours: tuple[int, ...], run_rank: RunRank
) -> int:
    die_with_parent(guardian)
    if start.descriptor_limit:
        restore_descriptor_limit(start.descriptor_limit)
    os.setsid() if start.session else os.setpgid(0, 0)
    for signum in _LEFT_TO_LAUNCHER:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_LAUNCHER)
    signal.signal(signal.SIGCHLD, _on_child)
    for number in ours:
        os.close(number)
    close_all(other.descriptors for other in starts if other is not start)
    redirect_streams(start)
    set_environment(start.env)
    return run_rank(start)


def in_child(function: Callable[[], int]) -> NoReturn:
    """Run a function as the whole life of a forked process; its value is the exit code."""
    code = 1
    try:
        code = function()
    except KeyboardInterrupt:  # An interpreter would end so: whoever waits shall know.
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT
    except BaseException:  # The last frame of this process: whatever it is, it must be read somewhere.
        sys.excepthook(*sys.exc_info())
    finally:
        exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Flush the standard streams and end without the interpreter's shutdown; -n is by signal n."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # Closed, full or missing: nobody is left to be told.
            pass
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        signal.raise_signal(-code)
    os._exit(code)


def redirect_streams(start: RankStart) -> None:
    """Set up the standard streams of a rank: files, inherited descriptors, and an empty stdin."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for path, name, target in ((start.stdout, "stdout", 1), (start.stderr, "stderr", 2)):
        file = start.descriptors.pop(name, -1)
        if path:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if file >= 0:
            os.dup2(file, target)
            os.close(file)
    open_streams()


def open_streams() -> None:
    """Have Python's standard streams be the descriptors 0 to 2, whatever the locale says."""
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    # As with `python -u`: what was printed is in the file before the next statement, also if that is SIGKILL.
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, f"__{name}__")  # Others may hold it.
        if not isinstance(stream, io.TextIOWrapper):
            stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        lead(stream, number)
        setattr(sys, name, stream)


def set_environment(changes: dict[str, str | None]) -> None:
    """Change `os.environ`; `None` removes a name."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def close_all(descriptors: Any) -> None:
    """Close the descriptors of other ranks."""
    for named in descriptors:
        for descriptor in named.values():
            os.close(descriptor)


def become_caretaker() -> None:
    """Become a process that looks after others: ignores the launcher's signals, adopts orphans."""
    remember_launcher()
    os.setpgid(0, 0)
    become_subreaper()
    raise_descriptor_limit()  # A guardian holds those of all its ranks.
    for signum in _LEFT_TO_LAUNCHER:
        signal.signal(signum, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    # The launcher may ignore it, and no exit code could be had; its handler may reap whatever it finds.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if handler not in (None, signal.SIG_DFL):
        global _on_child
        _on_child = handler
