"""`PContext`: a set of processes with logs, results and an end.

*Theory of operation.*  A context is a template: `_start` gives a `Group` (a guardian and its ranks),
`_returned` tells what a rank's result is, and everything else is written once, here.  `wait` blocks in the
context's loop (`loop.py`) until the guardian reports an exit.

A rank *failed* if it ended non-zero, by a signal, or without the result that its kind owes.  When one has
failed, its siblings get one `period` to end by themselves; those that are left are stopped and marked so.
The stop sequence runs in the guardian, so `wait` keeps its timeout while it goes on.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from pytest_elastic.clock import Deadline, to_seconds
from pytest_elastic.errors import GuardianError, SurvivorsError
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankExited, RankStart
from pytest_elastic.multiprocessing._run_arguments import check_call, read_constructor
from pytest_elastic.multiprocessing._signals import SignalHold
from pytest_elastic.multiprocessing._streams import ShownStreams
from pytest_elastic.multiprocessing.errors import ProcessFailure
from pytest_elastic.pristine import os, signal, threading
from pytest_elastic.processes import descriptor_limit, provide_descriptors, supported

logger = logging.getLogger(__name__)

START_LIMIT = 60.0
STOP_GRACE = 30.0
_PER_RANK, _SPARE = 8, 48  # Descriptors: both ends of a rank's channels and connections, its log files.


@dataclass
class RunProcsResult:
    """The outcome of a run, by rank.

    >>> RunProcsResult(return_values={0: "done"}).is_failed()
    False

    Attributes:
        return_values: what each rank returned; empty if any failed.
        failures: the ranks that failed by themselves, in order of exit.
        stdouts, stderrs: paths of the log files.
        stopped: the ranks that the launcher stopped.
    """

    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    stopped: dict[int, ProcessFailure] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether any rank failed by itself."""
        return len(self.failures) > 0


class PContext(abc.ABC):
    """Base class of process groups: `start`, `wait`, `pids`, `close`.

    `wait` and `close` may run in two threads.  `start_processes` makes one and starts it.

    Attributes:
        name: of the group, in shown lines and errors.
        entrypoint: a function, or the path of a program.
        args, envs: by rank.
        stdouts, stderrs: log file of each rank, `""` where it is not redirected.
        error_files: where each rank records its error.
        nprocs: number of ranks.
        loop: reads what the guardian and the ranks send; it is not started, but driven by whoever waits.
    """

    kind = "PContext"
    binary = False
    handles_signals = True

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., Any] | str,
        args: Mapping[int, Any],
        envs: Mapping[int, Mapping[str, str]],
        *logs: Any,
        **named: Any,
    ) -> None:
        check_call(entrypoint, args, envs)
        self.name, self.entrypoint = name, entrypoint
        self.args, self.envs = dict(args), {rank: dict(env) for rank, env in envs.items()}
        self._plan = read_constructor(self.kind, self.envs, logs, named)
        dest = self._plan.dest
        self.stdouts, self.stderrs, self.error_files = dest.stdouts, dest.stderrs, dest.error_files
        self.nprocs = len(self.envs)
        self._id = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._streams = ShownStreams(name, self._plan)
        self._signals = SignalHold()
        self.loop = Loop(name)
        self._group: Group | None = None
        self._lock = threading.RLock()
        self._result: RunProcsResult | None = None
        self._patience = Deadline.after(None)

    @property
    def filtered_stdout(self) -> TextIO | None:
        """The open file of chosen lines; closed at the end."""
        return self._streams.filtered[0]

    @property
    def filtered_stderr(self) -> TextIO | None:
        """Likewise of stderr."""
        return self._streams.filtered[1]

    def marker(self) -> dict[str, str]:
        """The environment variable by which every process of the group is recognised."""
        return {"PYTEST_ELASTIC_GROUP": self._id}

    def _starts(
        self, job: Callable[[int], Any], descriptors: Mapping[int, dict[str, int]] | None = None
    ) -> list[RankStart]:
        """How each rank begins; what is not redirected is what this process has now."""
        starts = []
        for rank in sorted(self.envs):
            inherited = {
                name: number
                for name, number, files in (("stdout", 1, self.stdouts), ("stderr", 2, self.stderrs))
                if not files[rank]
            }
            numbers = {**(descriptors[rank] if descriptors else {}), **inherited}
            env: dict[str, str | None] = {**self.envs[rank], **self.marker()}
            files = (self.stdouts[rank], self.stderrs[rank])
            starts.append(RankStart(rank, env, *files, job(rank), numbers, self.binary, descriptor_limit()))
        return starts

    # What a kind of context answers.

    @abc.abstractmethod
    def _start(self) -> Group:
        """Start every rank; nothing is left if it raises."""

    @abc.abstractmethod
    def _returned(self, rank: int) -> tuple[bool, Any]:
        """Whether a rank has done what its kind owes, and its value; if not, the reason in words."""

    def _sleep(self, exits: int, deadline: Deadline) -> None:
        """Block until more than so many ranks have ended, the run is over, or the deadline passes."""
        group = self.group
        self.loop.wait(lambda: group.over or len(group.exits) > exits, deadline)

    @abc.abstractmethod
    def _release(self) -> None:
        """The group has ended: let go of what the kind holds; idempotent."""

    # What all have in common.

    @property
    def group(self) -> Group:
        """The started group.

        Raises:
            RuntimeError: before `start`.
        """
        if self._group is None:
            raise RuntimeError(f"{self.name}: the context was not started")
        return self._group

    def start(self) -> None:
        """Start the ranks; returns when every process exists.

        Raises:
            ValueError: it was started already.
            OSError: a rank could not be started; none is left.
            GuardianError: the system cannot contain ranks; the text says why.
        """
        if self._group is not None:
            raise ValueError(f"{self.name}: the context is already initialized; start() was called twice")
        if why := supported():
            raise GuardianError(f"ranks need Linux 5.3 or newer with /proc: {why}")
        provide_descriptors(_SPARE + _PER_RANK * self.nprocs, f"{self.nprocs} ranks")
        if self.handles_signals:
            self._signals.take()
        try:
            self._streams.open()
            self._group = self._start()
            self._group.wait_started(START_LIMIT)
            self._streams.start()  # Last: what forks on the way here does not inherit what they hold open.
        except BaseException:
            with contextlib.suppress(SurvivorsError):
                self.close(timeout=0)
            self._finish()
            raise

    def pids(self) -> dict[int, int]:
        """Rank -> process id in rank order, also after the end; `{}` before the start."""
        return {} if self._group is None else dict(sorted(self._group.pids.items()))

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:
        """Block until the run has ended, and return its result; `None` if `timeout` passes before.

        Args:
            timeout: seconds; 0 only polls, a negative one waits for ever.  Clamp it at 0 if it is computed
                from a deadline.
            period: seconds that the other ranks have to end by themselves once one has failed; then they
                are stopped.

        Raises:
            RuntimeError: before `start`.
            ValueError: NaN, or a negative period.
        """
        timeout, period = to_seconds(timeout), to_seconds(period, "period")
        if period < 0:
            raise ValueError(f"period must not be negative, but it is {period}")
        group = self.group
        deadline = Deadline.after(None if timeout < 0 else timeout)
        self._sleep(-1, Deadline.after(0))
        while True:
            exits, expired = len(group.exits), deadline.passed()
            result = self._poll(period)
            if result is not None or expired:
                return result
            stops = self._stop_at() if group.stopped_at == math.inf else deadline
            self._sleep(exits, deadline.earlier(stops))

    def close(self, death_sig: signal.Signals | int | None = None, timeout: float = STOP_GRACE) -> None:
        """Stop what runs and wait until nothing is left, at most `timeout` + 1.2 s; idempotent.

        Processes whose memory the kernel still frees may take up to 30 s more, and lines that are shown
        5 s where nobody takes them.

        Args:
            death_sig: sent first; SIGTERM by default.
            timeout: seconds until SIGKILL.

        Raises:
            ValueError: a negative timeout, or no such signal.
            SurvivorsError: processes outlived SIGKILL.
        """
        if not to_seconds(timeout) >= 0:
            raise ValueError(f"timeout must not be negative, but it is {timeout}")
        signum = signal.Signals(death_sig) if death_sig is not None else signal.SIGTERM
        group = self._group
        if group is None:
            return
        if not group.over:
            group.stop(signum, timeout)
        try:
            group.wait_ended(timeout)
        finally:
            self._poll(0)
            self._finish()

    def _poll(self, period: float) -> RunProcsResult | None:
        """The result, if the run has ended; begins the stop where siblings had their time.  Never blocks."""
        with self._lock:
            group = self.group
            if self._result is None and group.over:
                self._result = self._judge()
                self._finish()
                for leak in group.ended.leaks if group.ended else ():
                    logger.warning(
                        "%s left a process behind: pid %d, %s (killed)", self.name, leak.pid, leak.command
                    )
            elif self._result is None and group.stopped_at == math.inf and self._failed_ranks():
                self._patience = self._patience.earlier(Deadline.after(period))
                if self._stop_at().passed():
                    group.stop(signal.SIGTERM, STOP_GRACE)
            return self._result

    def _stop_at(self) -> Deadline:
        """When siblings of a failed rank are stopped; never, while none has failed."""
        return self._patience

    def _failed_ranks(self) -> list[int]:
        """The ranks that failed by themselves so far, in order of exit."""
        exits = [exit for exit in tuple(self.group.exits.values()) if exit.at <= self.group.stopped_at]
        return [exit.rank for exit in exits if not self._succeeded(exit)]

    def _succeeded(self, exited: RankExited) -> bool:
        return exited.exitcode == 0 and self._returned(exited.rank)[0]

    def _value(self, rank: int) -> Any:
        returned, value = self._returned(rank)
        return value if returned else None

    def _judge(self) -> RunProcsResult:
        group = self.group
        result = RunProcsResult(stdouts=self.stdouts, stderrs=self.stderrs)
        for rank in self._failed_ranks():
            result.failures[rank] = self._failure(rank, group.exits[rank].exitcode)
        for rank in sorted(self.envs):
            exited = group.exits.get(rank)
            if rank in result.failures:
                continue
            if exited is None:
                self._judge_missing(rank, result)
            elif exited.at > group.stopped_at and (self.binary or not self._succeeded(exited)):
                result.stopped[rank] = self._failure(rank, exited.exitcode)
                result.stopped[rank].stopped = True
        if self.binary or not result.failures:
            # Torch counts programs that it stopped; and a run that the caller closed did not succeed either.
            result.failures |= result.stopped
        if not result.failures:
            result.return_values = {rank: self._value(rank) for rank in sorted(self.envs)}
        return result

    def _judge_missing(self, rank: int, result: RunProcsResult) -> None:
        """A rank whose end nobody saw: it outlived SIGKILL, or died by the kernel with its guardian."""
        failure = self._failure(rank, -signal.SIGKILL)
        if self.group.ended is not None:
            failure.stopped, failure.message = True, f"rank {rank} has survived SIGKILL"
            result.stopped[rank] = failure
        else:
            failure.message = f"the guardian of {self.name} was killed, and its ranks with it"
            result.failures[rank] = failure

    def _failure(self, rank: int, exitcode: int) -> ProcessFailure:
        failure = ProcessFailure.observed(
            rank, self.pids().get(rank, -1), exitcode, self.error_files.get(rank, "")
        )
        returned, reason = self._returned(rank)
        lost = getattr(self.group.exits.get(rank), "lost", "")
        if lost:
            failure.message = f"rank {rank} {lost}"
        elif exitcode == 0 and not returned:
            failure.message = reason
        elif exitcode == -signal.SIGINT and not returned:  # So ends `KeyboardInterrupt` too.
            failure.message = f"{reason}: {failure.message}"
        return failure

    def _finish(self) -> None:
        """Drain the tails and let go of everything; idempotent."""
        with self._lock:
            self._streams.stop()
            if self._group is not None:
                self._group.close()
            self._release()
            self._signals.release()
            self.loop.close()
