"""The zygote: a process in a known good state that forks the guardian of each group on request.

*Theory of operation.*  Forking is cheap and carries everything along (modules, closures, collected
tests), but it is safe only from a process that has one thread and never ran the code under test.  So one
such process is set aside early and asked for every group: it forks a guardian (`_guardian`), which forks
the ranks.  It adopts what a killed guardian leaves behind and sweeps it, and it ends with its launcher: it
watches the launcher's pidfd, because the end of a socket may be held open by a stranger's fork.

Most of what a fork costs is the copy of the page tables.  A zygote that has forked a few groups moves its
own memory into huge pages, which have fewer: shorter runs would not earn that back.  It does so a page at a
time, while nobody wants anything of it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pytest_elastic.clock import Deadline
from pytest_elastic.errors import GuardianError
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import RunRank, become_caretaker, guard, in_child
from pytest_elastic.multiprocessing._messages import RankStart, StartFailed
from pytest_elastic.multiprocessing._rankside import let_go
from pytest_elastic.multiprocessing._stop import sweep
from pytest_elastic.pristine import os, select, signal, threading, time
from pytest_elastic.processes import collapse_memory, dying, fork, pause_openmp, thread_numbers

logger = logging.getLogger(__name__)

CHANNEL = 3  # The descriptor at which a zygote finds its own that did not begin as a fork.
_MANY = 8  # Groups after which a run is long enough to gain from what makes forks cheap.
_LAST_WORDS = 1.0  # How long guardians have to sweep their own groups when the launcher is gone.


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Request of one group; its descriptors are the control end, then those of the ranks."""

    starts: list[RankStart]


@dataclass(frozen=True, slots=True)
class End:
    """Request to end; the channel's end is not enough, as a stranger's fork may hold it open."""


class Zygote:
    """The launcher's handle on a zygote process.  Not thread-safe.

    Attributes:
        pid: of the zygote.
    """

    def __init__(self, channel: Channel, pid: int) -> None:
        self._channel, self.pid = channel, pid

    @classmethod
    def fork(cls, run_rank: RunRank, prepare: Callable[[], None] = lambda: None) -> Zygote:
        """Fork this process as it stands; ranks run `run_rank` in forks of that fork.

        The caller answers for the state of the process (one Python thread, no CUDA context).  `prepare`
        runs once in the zygote.  Pools of OpenMP are ended before, as they would not be there in the fork.
        """
        pause_openmp()
        channel, theirs = Channel.pair()
        launcher = os.getpid()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # Closed, full or missing.
                stream.flush()  # type: ignore[union-attr]  # Else each rank would write what is pending.
        try:
            pid = fork()
        except OSError:
            channel.close()
            theirs.close()
            raise
        if pid:
            theirs.close()
            return cls(channel, pid)
        channel.close()

        def live() -> NoReturn:
            prepare()
            serve(Channel(theirs), watch_parent(launcher), run_rank)

        in_child(live)

    @classmethod
    def spawn(cls, module: str, function: str, preload: tuple[str, ...] = ()) -> Zygote:
        """A zygote in a fresh interpreter; ranks run the named function in forks of it.

        It imports the modules of `preload` first; those that it cannot, it leaves to the ranks.

        Safe from any thread and any state of this process.
        """
        code = f"import sys; sys.path[:] = {sys.path!a}; from {__name__} import main; main()"
        return cls.execute(
            [sys.executable, "-c", code, str(os.getpid()), module, function, *preload], os.environ
        )

    @classmethod
    def execute(cls, arguments: list[str], environment: Mapping[str, str], output: str = "") -> Zygote:
        """A zygote in a new program, which is to call `serve` with its `CHANNEL`.

        Args:
            output: a file for what it writes; `""` is where this process writes.
        """
        channel, theirs = Channel.pair()
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL),
        ]
        if output:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            actions += [(os.POSIX_SPAWN_OPEN, number, output, flags, 0o600) for number in (1, 2)]
        try:
            return cls(channel, os.posix_spawn(arguments[0], arguments, environment, file_actions=actions))
        except OSError:
            channel.close()
            raise
        finally:
            theirs.close()

    def hear(self, limit: float) -> Any:
        """The first word of a program that is to be a zygote; blocks up to `limit` seconds.

        Raises:
            EOFError: it has ended.
            TimeoutError: it has said nothing.
        """
        if not select.select([self._channel], [], [], limit)[0]:
            raise TimeoutError(f"it said nothing within {limit:g} s")
        return self._channel.wait()[0]

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Fork a guardian with these ranks; the channel to it is the answer.

        The descriptors in `starts` stay the caller's to close.

        Raises:
            GuardianError: the zygote is gone.
        """
        control, theirs = Channel.pair()
        descriptors = [number for start in starts for number in start.descriptors.values()]
        try:
            self._channel.send(GroupRequest(starts), (theirs.fileno(), *descriptors))
        except OSError as error:
            control.close()
            raise GuardianError(
                "the zygote is gone: nothing can be forked from it any more", pid=self.pid
            ) from error
        finally:
            theirs.close()
        return control

    def close(self, timeout: float = _LAST_WORDS + 1.0) -> bool:
        """End the zygote and every group of it; bounded by `timeout` seconds and one more; idempotent.

        Returns:
            Whether it ended by itself; one that does not is killed, which is logged.
        """
        if self._channel.closed:
            return True
        self.end()
        return self._reap(timeout)

    def leave(self) -> None:
        """`close`, but for the wait: it takes the zygote some milliseconds to end, and a thread reaps it."""
        if not self._channel.closed:
            self.end()
            threading.Thread(target=self._reap, args=(5.0,), name=f"Zygote_{self.pid}", daemon=True).start()

    def end(self) -> None:
        """Tell the zygote to end, without a wait for it."""
        with contextlib.suppress(OSError):  # It is gone already.
            self._channel.send(End())
        self._channel.close()

    def _reap(self, timeout: float) -> bool:
        if reaped(self.pid, timeout) or dying(self.pid):  # It may have much memory to give back.
            return True
        logger.warning("the zygote (pid %d) did not end within %g s and was killed", self.pid, timeout)
        os.kill(self.pid, signal.SIGKILL)  # Our child that nobody has reaped: the pid is its own.
        reaped(self.pid, 1.0)
        return False


def reaped(pid: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds for the end of a child of this process, and reap it."""
    deadline = Deadline.after(timeout)
    with contextlib.suppress(ChildProcessError):  # Somebody else reaped our child.
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if deadline.passed():
                return False
            time.sleep(0.001)
    return True


def main() -> NoReturn:
    """A spawned zygote's program; arguments: the launcher's pid, module, function, modules to preload."""
    launcher, module, function, *preload = sys.argv[1:]
    os.set_inheritable(CHANNEL, False)
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    run_rank = getattr(importlib.import_module(module), function)
    serve(Channel.of(CHANNEL), watch_parent(int(launcher)), run_rank)


def watch_parent(pid: int) -> int:
    """A pidfd of this process's parent, which is the launcher; ends here if that is gone."""
    pidfd = os.pidfd_open(pid)
    if os.getppid() != pid:  # It had ended before, and its pid may have been given to another.
        os._exit(0)
    return pidfd


def serve(channel: Channel, launcher_pidfd: int, run_rank: RunRank) -> NoReturn:
    """Be a zygote until the launcher is gone.

    Args:
        channel: to the launcher.
        launcher_pidfd: of the launcher, an ancestor of this process.
        run_rank: what ranks do.
    """
    become_caretaker()
    let_go({0, 1, 2} - {channel.fileno(), launcher_pidfd})  # Ranks have streams of their own.
    gone = False
    if len(thread_numbers(os.getpid())) > 1:  # Of what was imported here: nobody else has left a pool.
        pause_openmp()
    gc.collect()
    gc.freeze()  # A rank's collections then leave the inherited pages alone, and they stay shared.
    guardians: dict[int, int] = {}
    groups = 0
    pages: Iterator[None] | None = None  # That are still to be collapsed.
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(launcher_pidfd, select.POLLIN)
    while not gone:
        ready = poll.poll(0 if pages else None)
        if pages and not ready and next(pages, "all") == "all":
            pages = None
        for descriptor, _ in ready:
            if descriptor in guardians:
                poll.unregister(descriptor)
                reap_guardian(descriptor, guardians)
                groups += 1
                if groups == _MANY:
                    pages = collapse_memory()
            elif descriptor == launcher_pidfd:
                gone = True
            else:
                for request, numbers in channel.receive():
                    if isinstance(request, End):
                        gone = True
                        break
                    ours = (channel.fileno(), launcher_pidfd, *guardians)
                    try:
                        pidfd, pid = fork_guardian(request, numbers, ours, run_rank)
                    except OSError as error:  # No process to be had: that group fails, we go on.
                        if numbers:
                            Channel.of(numbers[0]).send(StartFailed(-1, error))
                        continue
                    guardians[pidfd] = pid
                    poll.register(pidfd, select.POLLIN)
                gone = gone or channel.closed
    end_zygote(guardians)


def fork_guardian(
    request: GroupRequest, numbers: tuple[int, ...], ours: tuple[int, ...], run_rank: RunRank
) -> tuple[int, int]:
    """Fork one; its pidfd and pid.  `ours` are the zygote's own descriptors, the launcher's pidfd second."""
    try:
        if len(numbers) <= sum(len(start.descriptors) for start in request.starts):
            raise OSError(errno.EMFILE, "the kernel had no descriptors left for the ranks")
        pid = fork()
    except OSError:
        for number in numbers[1:]:
            os.close(number)
        raise
    if pid:
        for number in numbers:
            os.close(number)
        return os.pidfd_open(pid), pid
    in_child(lambda: be_guardian(request, numbers, ours, run_rank))


def be_guardian(
    request: GroupRequest, numbers: tuple[int, ...], ours: tuple[int, ...], run_rank: RunRank
) -> NoReturn:
    """In the forked guardian: close the zygote's descriptors, and guard the group."""
    zygotes, launcher, *pidfds = ours
    for number in (zygotes, *pidfds):
        os.close(number)
    control, *rest = numbers
    supply = iter(rest)
    for start in request.starts:
        start.descriptors.update({name: next(supply) for name in start.descriptors})
    become_caretaker()
    guard(request.starts, Channel.of(control), launcher, run_rank)


def reap_guardian(pidfd: int, guardians: dict[int, int]) -> None:
    """Reap a guardian that has ended, and sweep what it left behind, which the zygote has adopted."""
    pid = guardians.pop(pidfd)
    with contextlib.suppress(ChildProcessError):  # One that ended with another was reaped by the sweep below.
        os.waitpid(pid, 0)
    os.close(pidfd)
    sweep(frozenset(guardians.values()))


def end_zygote(guardians: dict[int, int]) -> NoReturn:
    """End after the launcher: wait for the guardians, which see it by themselves, then sweep the rest."""
    deadline = Deadline.after(_LAST_WORDS)
    while guardians and not deadline.passed():
        ended, _, _ = select.select(list(guardians), [], [], deadline.remaining())
        for pidfd in ended:
            reap_guardian(pidfd, guardians)
    sweep()
    os._exit(0)
