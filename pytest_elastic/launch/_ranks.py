"""The ranks of one test, or of one function: a `PContext` with a channel to each rank and a store.

*Theory of operation.*  A launcher (`Zygote` or the fresh interpreters of `_spawn`) forks a guardian; the
guardian forks the ranks.  Each rank holds one end of a channel and of a store connection, and writes its
output to files of its own directory, never to a pipe of ours.  `collect` is the one place that waits: for
the answers of the ranks, their exits and the deadline, at once.  Starting is not part of a test's time: it
has a limit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from pytest_elastic import events
from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import StartError
from pytest_elastic.hang import Stack
from pytest_elastic.launch import _byvalue
from pytest_elastic.launch._debugger import Borrow, Loans
from pytest_elastic.launch._dumps import Dumps
from pytest_elastic.launch._files import RankLogs
from pytest_elastic.launch._lookout import Lookout
from pytest_elastic.launch._plan import Answers, Launcher, Plan
from pytest_elastic.launch._port import reserve_port
from pytest_elastic.launch._rank import Hello, RankJob
from pytest_elastic.launch._spy import spy
from pytest_elastic.launch._timeouts import of_timeout_in
from pytest_elastic.launch._timers import GroupTimers, describe_expiry
from pytest_elastic.multiprocessing import (
    DYING_LIMIT,
    Group,
    LogPlan,
    LogsDest,
    PContext,
    RankChannels,
    RankExited,
    RunProcsResult,
)
from pytest_elastic.multiprocessing.errors import ProcessFailure
from pytest_elastic.pristine import os, signal
from pytest_elastic.processes import command, descendants, dying, is_helper, memory_file, parent, state
from pytest_elastic.report import PhaseReport, Raised, stack_text
from pytest_elastic.store import Gate, RemoteStore, StoreServer

GRACE = 2.0
SIBLING_PERIOD = 0.5
_LOOK_UP = 0.25  # Seconds until a rank that polls without end is noticed.
_REPORT_PERIOD = 5.0
_STOPPED = (-signal.SIGTERM, -signal.SIGKILL)  # Such an end is our doing, and says nothing of a hang.
_MOVING_PERIOD = 5.0  # More for those whose waits end one after the other, since the clock jumps.


class RankGroup(PContext):
    """N ranks.  Not thread-safe but for `close`.

    Attributes:
        plan: what it was made from.
        directories: rank -> its directory: `stdout.log`, `stderr.log`, `stacks.log`, `error.json`.
        server: the group's store.
        timers: what `expires` armed in the ranks; looked after while `collect` or `wait` waits, and always
            once `watch_timers` was called.
        loans: of the terminal, to debuggers in the ranks.
        lookout: finds out that ranks hang.
        tests: rank -> see `Hello`.
        fresh: whether no item ran on it yet.
        expect: rank -> exit code that is no failure.
    """

    handles_signals = False

    def __init__(self, name: str, launcher: Launcher, plan: Plan, payload: Any = None) -> None:
        self.plan, self._launcher, self._payload = plan, launcher, payload
        self.directories = {rank: plan.directory / f"rank{rank}" for rank in range(plan.nprocs)}
        for directory in self.directories.values():
            directory.mkdir(parents=True, exist_ok=True)
        outs, errs, errors = (
            {rank: str(directory / file) for rank, directory in self.directories.items()}
            for file in ("stdout.log", "stderr.log", "error.json")
        )
        self._port = reserve_port()
        self._channels = RankChannels(self.directories)
        self.timers = GroupTimers()
        stand = self.timers.standing_still if plan.debugging_stops_clocks else nullcontext
        self.loans = Loans(plan.terminal, self._channels.inbox, stand)
        self.dumps = Dumps(self.directories)
        self._noted: set[int] = set()
        self.fresh = True
        self.tests: dict[int, tuple[str, ...] | None] = {}
        self.expect: dict[int, int] = {}
        self._gate: Gate | None = None
        self.lookout = Lookout(self, plan.nprocs, plan.clock, payload is None)
        self.server = StoreServer(sink=self.lookout.sink, gate=self._gate)
        shown = (outs, errs) if plan.live else ({}, {})
        super().__init__(
            name,
            getattr(payload, "__name__", name),
            dict.fromkeys(self.directories, ()),
            {rank: self._environment(rank) for rank in self.directories},
            LogPlan(LogsDest(outs, errs, *shown, errors)),
        )

    def _environment(self, rank: int) -> dict[str, str]:
        size = str(self.plan.nprocs)
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._port.getsockname()[1]),
            "PYTEST_ELASTIC_RANK": str(rank),
            "TORCHELASTIC_RUN_ID": self.plan.directory.name,
            "TORCHELASTIC_ERROR_FILE": str(self.directories[rank] / "error.json"),
            **self.plan.env,
        }

    def _start(self) -> Group:
        self.server.start()
        payload = memory_file(_byvalue.dumps(self._payload)) if self._payload is not None else None
        ends = {
            rank: (self._channels.open(rank), self.server.pair(rank), self.timers.open(rank))
            for rank in self.directories
        }
        carried = {} if payload is None else {"payload": payload}
        descriptors = {
            rank: {"channel": channel.fileno(), "store": store.fileno(), "timers": timers, **carried}
            for rank, (channel, store, timers) in ends.items()
        }
        try:
            return Group(self._launcher.start_group(self._starts(self._job, descriptors)))
        finally:
            for channel, store, timers in ends.values():
                channel.close()
                store.close()
                os.close(timers)
            if payload is not None:
                os.close(payload)

    def _job(self, rank: int) -> RankJob:
        directory = str(self.directories[rank])
        return RankJob(
            self.nprocs, directory, self.plan.torch_threads, self._payload is not None, self.plan.test
        )

    def start(self) -> None:
        """Start the ranks; returns when every rank is ready to work.

        Raises:
            StartError: some were not in time, or ended; none is left.
        """
        super().start()
        ranks = list(self.directories)
        answers = self.collect(ranks, Deadline.after(self.plan.start_timeout), _has_ended)
        missing = [rank for rank in ranks if not isinstance(answers.replies.get(rank), Hello)]
        if missing:
            codes = {rank: end.exitcode for rank, end in answers.exits.items()}
            cause = f"exit codes {codes}" if codes else f"not ready after {self.plan.start_timeout:g} s"
            text = self.logs[missing[0]].tail()
            self.close(timeout=0)
            raise StartError(missing, f"{cause}; the log of rank {missing[0]} ends:\n{text}")
        self.tests = {rank: hello.tests for rank, hello in answers.replies.items()}
        now = SYSTEM_CLOCK.monotonic()
        self.lookout.note(events.RankStarted(now, rank, pid) for rank, pid in self.pids().items())

    def order(self, ranks: Iterable[int], order: object) -> None:
        """Send an order to ranks; one that is gone is passed over."""
        for rank in ranks:
            self._channels.send(rank, order)

    def begin(self, ranks: Iterable[int], phase: str, order: object) -> None:
        """Order ranks to run a phase."""
        now, ranks = SYSTEM_CLOCK.monotonic(), list(ranks)
        self.lookout.note(events.PhaseBegan(now, rank, phase) for rank in ranks)
        self.order(ranks, order)

    def renew_store(self, order: object) -> None:
        """Send an order together with a fresh store, to all ranks."""
        self.server.close()
        self.lookout.renew()
        self.server = StoreServer(sink=self.lookout.sink, gate=self._gate)
        self.server.start()
        for rank in self.directories:
            with self.server.pair(rank) as store:
                self._channels.send(rank, order, (store.fileno(),))

    def pass_to(self, gate: Gate | None) -> None:
        """Have the store, and those that follow it, ask this gate; `None` is nobody."""
        self._gate = gate
        self.server.pass_to(gate)

    def collect(self, ranks: list[int], deadline: Deadline, is_failure: Callable[[Any], bool]) -> Answers:
        """One reply of each rank, or its end; returns when nobody is left to wait for or time is over.

        After the first reply or `RankExited` that `is_failure`, the others have `SIBLING_PERIOD`.  A rank
        that has told of its failure (`Raised`) has `_REPORT_PERIOD` to say more, whatever the deadline.
        """
        answers, moving, lent = Answers(), False, 0.0
        waiting = set(ranks)
        patience = Deadline.after(None)
        while waiting:
            self._gather(answers, waiting)
            if self.loans.wanted():
                begin = SYSTEM_CLOCK.monotonic()
                paused = self._lend_terminal(deadline)
                lent += SYSTEM_CLOCK.monotonic() - begin
                deadline, patience = deadline.later(paused), patience.later(paused)
                self._gather(answers, waiting)  # What others sent meanwhile was in time.
            if any(map(is_failure, (*answers.replies.values(), *answers.exits.values()))):
                if patience.at == math.inf:
                    patience = Deadline.after(SIBLING_PERIOD)
                if self.lookout.moves and not moving:
                    patience, moving = patience.later(_MOVING_PERIOD), True
            until = deadline.earlier(patience)
            if writing := [raised.at for rank, raised in answers.raised.items() if rank in waiting]:
                due = max(writing) + _REPORT_PERIOD + lent
                until = Deadline(due if patience.at == math.inf else max(due, until.at))
            endless = bool(self.lookout.endless) and not writing
            if waiting and (until.passed() or endless):
                answers.silent = sorted(waiting)
                answers.expired = endless or (deadline.at <= patience.at and deadline.passed())
                break
            if waiting:
                self._channels.sleep(
                    self.group, waiting, self.timers.sooner(until), self.timers.descriptors()
                )
                self._expire(sorted(waiting))
        return answers

    def _lend_terminal(self, deadline: Deadline) -> float:
        """Serve the debuggers that opened in ranks; the seconds for which the clocks stood still."""

        def over(rank: int) -> bool:
            self._expire(list(self.directories))
            return self._gone(rank) or (not self.plan.debugging_stops_clocks and deadline.passed())

        paused = self.timers.paused
        self.loans.serve(lambda rank: self.group.signal((rank,), signal.SIGINT), over)
        return self.timers.paused - paused

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:
        """As for every context; time with a debugger open in a rank does not count.

        Who waits without a timeout leaves the store to the ranks.
        """
        self.lookout.launcher_waits(timeout < 0)
        return self._wait(timeout, period)

    def wait_alone(self, timeout: float, period: float) -> RunProcsResult | None:
        """`wait` for a caller who will do nothing in the store after it either."""
        self.lookout.launcher_waits(True)
        deadline, paused = Deadline.after(None if timeout < 0 else timeout), self.timers.paused
        while True:
            left = deadline.later(self.timers.paused - paused).remaining()
            result = super().wait(min(left, _LOOK_UP), period)
            if result is not None or left == 0 or self.lookout.endless:
                return result

    def _wait(self, timeout: float, period: float) -> RunProcsResult | None:
        paused, result = self.timers.paused, super().wait(timeout, period)
        while result is None and self.timers.paused > paused:
            more, paused = self.timers.paused - paused, self.timers.paused
            result = super().wait(more, period)
        return result

    def watch_timers(self) -> None:
        """Look after the timers in a thread from now on, whoever waits or not."""
        self.timers.watch(lambda: self._expire(list(self.directories)))

    def _expire(self, ranks: list[int]) -> None:
        """Kill the ranks whose timers have expired, once everybody's stacks are written."""
        for rank in self.timers.expired():
            standing = self.stacks([rank]) | self.stacks([other for other in ranks if other != rank])
            self.timers.stood[rank] = standing[rank]
            self.group.signal((rank,), signal.SIGKILL)

    def _gather(self, answers: Answers, waiting: set[int]) -> None:
        self.group.take()
        self._note_exits()
        for rank in sorted(waiting):
            # The exit is looked at first: what the rank sent before it is then there to be read.
            ended = self.group.exits.get(rank)
            inbox = self._channels.read(rank)
            while inbox and isinstance(inbox[0], Raised):
                answers.raised[rank] = inbox.popleft()
            # Past its timer a rank is dead, whatever it could still send before the kill.
            if inbox and not isinstance(inbox[0], Borrow) and rank not in self.timers.expiries:
                answers.replies[rank] = inbox.popleft()
                self._note_report(answers.replies[rank])
                waiting.discard(rank)
            elif ended is not None or self.group.over:
                answers.exits[rank] = ended or RankExited(rank, -signal.SIGKILL, 0.0)
                waiting.discard(rank)

    def _note_exits(self) -> None:
        """Tell the lookout of ranks that have ended since the last call; the store forgets them."""
        for rank, exited in list(self.group.exits.items()):
            if rank not in self._noted:
                self._noted.add(rank)
                if exited.exitcode not in _STOPPED and not self._failed_of_timeout(rank):
                    self.lookout.went_on(rank)
                expiry = self.timers.expiries.get(rank)
                text = "" if expiry is None else describe_expiry(expiry)
                self.lookout.note([events.RankExited(exited.at, rank, exited.exitcode, text)])
                self.server.drop(rank)

    def _failed_of_timeout(self, rank: int) -> bool:
        """Whether a rank that has exited recorded a time-out, or did nothing more after one."""
        recorded = of_timeout_in(self.directories[rank] / "error.json")
        return not self.lookout.did_more(rank) if recorded is None else recorded

    def _note_report(self, reply: object) -> None:
        if isinstance(reply, PhaseReport):
            first_line = reply.crash.partition("\n")[0]
            how = (reply.when, reply.outcome, first_line, os.path.basename(reply.place))
            if reply.outcome == "failed" and not reply.of_timeout:
                self.lookout.went_on(reply.rank)
            ended = events.PhaseEnded(reply.at, reply.rank, *how)
            self.lookout.note([ended, events.RankInspected(reply.at, reply.rank, *reply.inspection)])
            self.server.rested(reply.rank)

    def leftovers(self) -> list[str]:
        """Commands of the processes that live ranks have started and that still run, their helpers aside."""
        pids = set(self.group.pids.values())
        guardian = parent(next(iter(pids)))
        started = [process for process in descendants(guardian) if process.pid not in pids]
        return [command(process.pid) for process in started if not is_helper(process.pid)]

    def wait_exits(self, ranks: list[int], timeout: float) -> list[int]:
        """Block until these ranks have ended; returns those that have not after `timeout` seconds.

        Those that have, and that the kernel is still taking apart, have longer.
        """
        deadline = Deadline.after(timeout)
        while (left := [rank for rank in ranks if rank not in self.group.exits]) and not self.group.over:
            ending = any(dying(self.group.pids[rank]) for rank in left)
            until = deadline.later(DYING_LIMIT) if ending else deadline
            if until.passed():
                break
            self.group.take(min(until.remaining(), GRACE))
            self._note_exits()
        return left

    def stacks(self, ranks: list[int]) -> dict[int, list[Stack]]:
        """The Python stacks of these ranks as they stand; blocks up to half a second.

        A rank that SIGSTOP holds is seen from outside (the extra `stacks`), or has to be resumed to write its
        own; it then stays resumed.
        """
        pids = self.group.pids
        stopped = {rank: pids[rank] for rank in ranks if rank in pids and state(pids[rank]) == "T"}
        seen = spy(stopped, native=False)
        resumed = [rank for rank in stopped if rank not in seen]
        return seen | self.dumps.take(self.group, [rank for rank in ranks if rank not in seen], resumed)

    def stacks_in_c(self, ranks: list[int]) -> dict[int, list[Stack]]:
        """Those of `stacks`, and of ranks that are in no store what they do in C (the extra `stacks`).

        Blocks up to ten seconds more.
        """
        pids, outside = self.group.pids, self.lookout.outside()
        found = self.stacks([rank for rank in ranks if rank not in outside])  # At once: they may go on.
        # The others are not asked to write: a signal lets some calls return, and the rank goes on.
        found |= spy({r: pids[r] for r in ranks if r in outside and state(pids[r]) not in "TZ"}, native=True)
        return found | self.stacks([rank for rank in ranks if rank not in found])

    def _succeeded(self, exited: RankExited) -> bool:
        return self.expect.get(exited.rank) == exited.exitcode or super()._succeeded(exited)

    def values(self) -> list[Any]:
        """What the ranks have returned; `None` of one that has not."""
        return [self._value(rank) for rank in self.directories]

    def next_timer(self) -> float:
        """When the first timer of a rank expires, on the monotonic clock; `inf` for never."""
        return self.timers.next_deadline().at

    def _gone(self, rank: int) -> bool:
        self.group.take()
        return rank in self.group.exits

    @cached_property
    def store(self) -> RemoteStore:
        """The group's store, for the launcher; it ends with the group."""
        self.lookout.launcher_writes()
        return RemoteStore(self.server.pair("launcher"))

    @property
    def logs(self) -> dict[int, RankLogs]:
        """What each rank wrote so far."""
        return {rank: RankLogs(directory) for rank, directory in self.directories.items()}

    def kill(self, rank: int) -> None:
        """SIGKILL one rank; returns when the signal is on its way."""
        self.group.signal((rank,), signal.SIGKILL)

    def pause(self, rank: int) -> None:
        """Stop one rank (SIGSTOP) until `resume`."""
        self.group.signal((rank,), signal.SIGSTOP)

    def resume(self, rank: int) -> None:
        """Let a paused rank go on."""
        self.group.signal((rank,), signal.SIGCONT)

    # The rest of the template of `PContext`.

    def _take(self, timeout: float) -> None:
        if timeout > 0 and not self.group.over:
            until = self.timers.sooner(Deadline.after(timeout))
            self._channels.sleep(self.group, self.directories, until, self.timers.descriptors())
        self._expire([rank for rank in self.directories if rank not in self.group.exits])
        self._channels.take(self.group, 0)
        self._lend_terminal(Deadline.after(None))
        self._note_exits()

    def _failed_ranks(self) -> list[int]:
        expiries, exits = self.timers.expiries, self.group.exits
        return sorted(
            super()._failed_ranks(),
            key=lambda rank: expiries[rank].deadline if rank in expiries else exits[rank].at,
        )

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return self._channels.returned(rank, _byvalue.loads)

    def _failure(self, rank: int, exitcode: int) -> ProcessFailure:
        failure = super()._failure(rank, exitcode)
        if rank in self.timers.expiries:
            stood = stack_text(self.timers.stood.get(rank, []))
            expiry = self.timers.expiries[rank]
            failure.message = f"{describe_expiry(expiry)}\n{stood}"
            failure.timestamp = int(SYSTEM_CLOCK.time() - (SYSTEM_CLOCK.monotonic() - expiry.deadline))
        return failure

    def _release(self) -> None:
        self.loans.close()
        self._channels.close()
        self.server.close()
        self.timers.close()
        self._port.close()


def _has_ended(answer: Any) -> bool:
    return isinstance(answer, RankExited)
