"""The ranks of one test, or of one function: a `PContext` with a channel to each rank and a store.

*Theory of operation.*  A launcher (`Zygote` or the fresh interpreters of `_spawn`) forks a guardian; the
guardian forks the ranks.  Each rank holds one end of a channel and of a store connection, and writes its
output to files of its own directory, never to a pipe of ours.  The group's loop (`_group_loop`) serves all
of that; `collect` is the one place that waits: for the answers of the ranks, their exits and the deadline, at
once.  Starting is not part of a test's time: it has a limit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

from pytest_elastic import events
from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.errors import StartError
from pytest_elastic.hang import Stack
from pytest_elastic.launch import _byvalue
from pytest_elastic.launch._calls import data_of, sent
from pytest_elastic.launch._debugger import Loans
from pytest_elastic.launch._group_loop import Collection, GroupLoop, begun
from pytest_elastic.launch._group_plan import Answers, Launcher, Plan, RankLogs, reserve_port
from pytest_elastic.launch._hang_detector import HangDetector, Known
from pytest_elastic.launch._outcomes import why_not_started
from pytest_elastic.launch._rank import Hello, Payload, RankJob
from pytest_elastic.launch._rendezvous import Place
from pytest_elastic.launch._stacks import Done, Stacks
from pytest_elastic.launch._timers import GroupTimers, describe_expiry
from pytest_elastic.multiprocessing import (
    DYING_LIMIT,
    Group,
    LogPlan,
    LogsDest,
    PContext,
    RankExited,
    RunProcsResult,
)
from pytest_elastic.multiprocessing.errors import ProcessFailure
from pytest_elastic.pristine import os, signal
from pytest_elastic.report import PhaseReport, stack_text
from pytest_elastic.store import Gate, RemoteStore, StoreServer

GRACE = 2.0
SIBLING_PERIOD = 0.5
_LOOK_UP = 0.25  # Seconds until a rank that polls without end is noticed.
_REPORT_PERIOD = 5.0
_MOVING_PERIOD = 5.0  # More for those whose waits end one after the other, since the clock jumps.


class RankGroup(PContext):
    """N ranks.  Not thread-safe but for `close`.  One that nobody holds any more ends by itself.

    Attributes:
        plan: what it was made from.
        directories: rank -> its directory: `stdout.log`, `stderr.log`, `stacks.log`, `error.json`.
        loop: serves the ranks in a thread of its own, from `start` until the end.
        core: what lives in the loop.
        loans: of the terminal, to debuggers in the ranks.
        tests: rank -> see `Hello`.
        fresh: whether no item ran on it yet.
        expect: rank -> exit code that is no failure.
        explained: whether a report has told of a hang; the first phase that fails does.
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
        if plan.inherits_output:
            outs, errs = dict.fromkeys(outs, ""), dict.fromkeys(errs, "")
        self._port = reserve_port(plan.host)
        self.fresh = True
        self.tests: dict[int, tuple[str, ...] | None] = {}
        self.expect: dict[int, int] = {}
        self.explained = False
        self._moving_period = 0.0  # A caller of `wait` says for himself how long siblings have.
        self._places: dict[int, Place] = {}
        shown = plan.shown(outs, errs)
        super().__init__(
            name,
            getattr(payload, "__name__", name),
            dict.fromkeys(self.directories, ()),
            plan.environments(self._port.getsockname()[1], errors),
            LogPlan(LogsDest(outs, errs, *shown, errors), shown_on=plan.past_capture),
        )
        self.core = GroupLoop(self.loop, self.directories, plan, payload is None)
        stand = self.timers.standing_still if plan.debugging_stops_clocks else nullcontext
        self.loans = Loans(plan.terminal, self.core.channels.inbox, stand)

    def __del__(self) -> None:
        if (core := self.__dict__.get("core")) is not None:
            self.loop.stop(core.abandon)
            self._port.close()

    @property
    def server(self) -> StoreServer:
        """The group's store."""
        return self.core.server

    @property
    def timers(self) -> GroupTimers:
        """What `expires` armed in the ranks."""
        return self.core.timers

    @property
    def detector(self) -> HangDetector:
        """Finds out that ranks hang; it belongs to the loop."""
        return self.core.detector

    def _start(self) -> Group:
        self.loop.start()
        if self.plan.host:
            self._places = self.loop.call(partial(self.core.listen, self.plan.host))
            return self._fork({})
        ends = {
            rank: (self.core.channels.open(rank), self.server.pair(rank), self.timers.open(rank))
            for rank in self.directories
        }
        try:
            with sent(self._payload, self.directories) as carried:
                descriptors = {
                    rank: {"channel": channel.fileno(), "store": store.fileno(), "timers": timers}
                    | carried.get(rank, {})
                    for rank, (channel, store, timers) in ends.items()
                }
                return self._fork(descriptors)
        finally:
            for channel, store, timers in ends.values():
                channel.close()
                store.close()
                os.close(timers)

    def _fork(self, descriptors: dict[int, dict[str, int]]) -> Group:
        group = Group(self._launcher.start_group(self._starts(self._job, descriptors)), self.loop)
        self.loop.call(partial(self.core.take_over, group))
        return group

    def _job(self, rank: int) -> RankJob:
        plan, directory, calls = self.plan, str(self.directories[rank]), self._payload is not None
        there = (self._places.get(rank), plan.collectives, plan.surroundings, bool(plan.machines.away))
        return RankJob(self.nprocs, directory, plan.torch_threads, calls, plan.test, *there)

    def launch(self) -> None:
        """Begin the start; `start` waits for the rest of it.  For ranks that are slow to come up."""
        super().start()

    def start(self) -> None:
        """Start the ranks; returns when every rank is ready to work.

        Raises:
            StartError: some were not in time, or ended; none is left.
        """
        if self._group is None:
            self.launch()
        ranks = list(self.directories)
        limit = self.plan.start_limit
        answers = self.collect(ranks, Deadline.after(limit), _has_ended)
        missing = [rank for rank in ranks if not isinstance(answers.replies.get(rank), Hello)]
        if missing:
            if not answers.exits:
                self.plan.late[self.plan.how] += 1
            cause = why_not_started(self, answers, missing[0], limit)
            self.close(timeout=0)
            raise StartError(missing, cause)
        self.plan.late[self.plan.how] = 0
        if self.plan.host and self._payload is not None:
            for rank in ranks:
                self.order([rank], Payload(data_of(self._payload, rank)))
        self.tests = {rank: hello.tests for rank, hello in answers.replies.items()}
        now = SYSTEM_CLOCK.monotonic()
        started = [events.RankStarted(now, rank, pid) for rank, pid in self.pids().items()]
        self.loop.call(partial(self.detector.note, started))

    def order(self, ranks: Iterable[int], order: object) -> None:
        """Send an order to ranks; one that is gone is passed over."""
        for rank in ranks:
            self.core.channels.send(rank, order)

    def begin(self, ranks: Iterable[int], phase: str, order: object) -> None:
        """Order ranks to run a phase."""
        ranks = list(ranks)
        self.loop.call(partial(self.detector.note, begun(ranks, phase)))
        self.order(ranks, order)

    def renew_store(self, order: object) -> None:
        """Send an order together with a fresh store, to all ranks."""
        self.loop.call(self.core.renew_store)
        for rank in self.directories:
            if self.plan.host:
                place = self.loop.call(partial(self.core.store_place, rank, self.plan.host))
                self.core.channels.send(rank, place)
                self.core.channels.send(rank, order)
                continue
            with self.server.pair(rank) as store:
                self.core.channels.send(rank, order, (store.fileno(),))

    def pass_to(self, gate: Gate | None) -> None:
        """Have the store, and those that follow it, ask this gate; `None` is nobody."""
        self.loop.call(partial(self.core.pass_to, gate))

    def collect(self, ranks: list[int], deadline: Deadline, is_failure: Callable[[Any], bool]) -> Answers:
        """One reply of each rank, or its end; returns when nobody is left to wait for or time is over.

        After the first reply or `RankExited` that `is_failure`, the others have `SIBLING_PERIOD`.  A rank
        that has told of its failure (`Raised`) has `_REPORT_PERIOD` to say more, whatever the deadline.
        """
        collection = Collection(self.core, self.loans, ranks, is_failure)
        answers, waiting = collection.answers, collection.waiting
        patience, until, moving, lent = Deadline.after(None), deadline, False, 0.0
        while waiting:
            self.loop.wait(collection.look, until)
            if self.loans.wanted():
                begin = SYSTEM_CLOCK.monotonic()
                paused = self._lend_terminal(deadline)
                lent += SYSTEM_CLOCK.monotonic() - begin
                deadline, patience = deadline.later(paused), patience.later(paused)
                self.loop.call(collection.look)  # What others sent meanwhile was in time.
            if collection.failed:
                if patience.at == math.inf:
                    patience = Deadline.after(SIBLING_PERIOD)
                if self.detector.moves and not moving:
                    patience, moving = patience.later(_MOVING_PERIOD), True
            until = deadline.earlier(patience)
            if writing := [raised.at for rank, raised in answers.raised.items() if rank in waiting]:
                due = max(writing) + _REPORT_PERIOD + lent
                until = Deadline(due if patience.at == math.inf else max(due, until.at))
            endless = self.detector.outlasts(deadline.at) and not writing
            if waiting and (until.passed() or endless):
                answers.silent = sorted(waiting)
                answers.expired = endless or (deadline.at <= patience.at and deadline.passed())
                break
        return answers

    def _lend_terminal(self, deadline: Deadline) -> float:
        """Serve the debuggers that opened in ranks; the seconds for which the clocks stood still."""

        def over(rank: int) -> bool:
            return rank in self.group.exits or (not self.plan.debugging_stops_clocks and deadline.passed())

        paused = self.timers.paused
        self.loans.serve(lambda rank: self.group.signal((rank,), signal.SIGINT), over)
        return self.timers.paused - paused

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:
        """As for every context; time with a debugger open in a rank does not count.

        Who waits without a timeout leaves the store to the ranks.
        """
        self.loop.call(partial(self.detector.launcher_waits, timeout < 0))
        return self._wait(timeout, period)

    def wait_alone(self, timeout: float) -> RunProcsResult | None:
        """`wait`, with the periods of `collect`, for one who will do nothing in the store after it either."""
        self._moving_period = _MOVING_PERIOD
        self.loop.call(partial(self.detector.launcher_waits, True))
        deadline, paused = Deadline.after(None if timeout < 0 else timeout), self.timers.paused
        while True:
            left = deadline.later(self.timers.paused - paused).remaining()
            result = super().wait(min(left, _LOOK_UP), SIBLING_PERIOD)
            if result is not None or left == 0 or self.detector.outlasts(SYSTEM_CLOCK.monotonic() + left):
                return result

    def _stop_at(self) -> Deadline:
        """Later, as in `collect`, where those who hang are on their way out."""
        return super()._stop_at().later(self._moving_period if self.detector.moves else 0)

    def _wait(self, timeout: float, period: float) -> RunProcsResult | None:
        paused, result = self.timers.paused, super().wait(timeout, period)
        while result is None and self.timers.paused > paused:
            more, paused = self.timers.paused - paused, self.timers.paused
            result = super().wait(more, period)
        return result

    def begin_test(self, clock: str) -> None:
        """Another test begins, with such a clock: forget what was found, and what happened."""
        self.explained = False
        self.loop.call(partial(self.core.begin_test, clock))

    def known(self, stacks: Mapping[int, Sequence[Stack]] | None = None) -> Known:
        """What the hang detector knows by now, with what these stacks say of ranks outside of the store."""
        return self.loop.call(partial(self.detector.known, stacks))

    def give_up(self, stood: Iterable[events.RankStood]) -> None:
        """The time is over: tell the hang detector where ranks stand that did not finish."""
        self.loop.call(partial(self.detector.give_up, stood))

    def lines(self) -> list[events.LineWritten]:
        """What the ranks have written since the test began, in the order of time."""
        return self.loop.call(self.core.output.lines)

    def reports(self) -> dict[int, PhaseReport]:
        """What functions on ranks told of their failures, by rank."""
        inbox = self.core.channels.inbox
        return {r: one for r in inbox for one in tuple(inbox[r]) if isinstance(one, PhaseReport)}

    def leftovers(self) -> list[str]:
        """Commands of the processes that live ranks have started and that still run, their helpers aside."""
        return self.plan.machines.left_by(self.group.pids)

    def wait_exits(self, ranks: list[int], timeout: float) -> list[int]:
        """Block until these ranks have ended; returns those that have not after `timeout` seconds.

        Those that are on their way have longer, see `GroupLoop.ending`.
        """
        deadline, group = Deadline.after(timeout), self.group

        def left() -> list[int]:
            return [] if group.over else [rank for rank in ranks if rank not in group.exits]

        self.loop.wait(lambda: not left(), Deadline.after(timeout / 2))
        self.core.ending(left())
        self.loop.wait(lambda: not left(), deadline)
        while self.core.ending(left()) and not deadline.later(DYING_LIMIT).passed():
            self.loop.wait(lambda: not left(), Deadline.after(GRACE))
        return left()

    def stacks(self, ranks: list[int]) -> Stacks:
        """The Python stacks of these ranks as they stand; see `RankStacks.take` for how long it may block."""
        return self._ask(ranks, self.core.take_stacks)

    def stacks_in_c(self, ranks: list[int]) -> Stacks:
        """Those of `stacks`, and of ranks that are in no store what they do in C (the extra `stacks`).

        Blocks up to ten seconds more.
        """
        return self._ask(ranks, self.core.take_stacks_in_c)

    def _ask(self, ranks: list[int], take: Callable[[list[int], Done], object]) -> Stacks:
        found: Stacks = {rank: [] for rank in ranks}
        done: list[bool] = []

        def note(stacks: Stacks) -> None:
            found.update(stacks)
            done.append(True)
            self.loop.recheck()

        self.loop.call(partial(take, ranks, note))
        self.loop.wait(lambda: done, Deadline.after(None))
        return found

    def _succeeded(self, exited: RankExited) -> bool:
        expected = not exited.lost and self.expect.get(exited.rank) == exited.exitcode
        return expected or super()._succeeded(exited)

    def values(self) -> list[Any]:
        """What the ranks have returned; `None` of one that has not."""
        return [self._value(rank) for rank in self.directories]

    @cached_property
    def store(self) -> RemoteStore:
        """The group's store, for the launcher; it ends with the group."""
        self.loop.call(self.detector.launcher_writes)
        return RemoteStore(self.server.pair("launcher"))

    @property
    def logs(self) -> dict[int, RankLogs]:
        """What each rank wrote so far."""
        self.plan.machines.fetch(self.directories)
        return {rank: RankLogs(directory) for rank, directory in self.directories.items()}

    def exitcode(self, rank: int) -> int | None:
        """The exit code of one rank as soon as it has ended, -n for signal n; nobody has judged it."""
        return self.loop.call(partial(self.core.exitcode, rank))

    def sentinel(self, rank: int) -> int:
        """A descriptor that can be read once the rank's exit code is known; it is closed with the group."""
        return self.loop.call(partial(self.core.sentinel, rank))

    def signal(self, rank: int, signum: int) -> None:
        """Send a signal to one rank, if it runs; returns when it is on its way."""
        self.loop.call(partial(self.core.signal, rank, signum))

    def kill(self, rank: int) -> None:
        """SIGKILL one rank; returns when the signal is on its way."""
        self.signal(rank, signal.SIGKILL)

    def pause(self, rank: int) -> None:
        """Stop one rank (SIGSTOP) until `resume`."""
        self.signal(rank, signal.SIGSTOP)

    def resume(self, rank: int) -> None:
        """Let a paused rank go on."""
        self.signal(rank, signal.SIGCONT)

    # The rest of the template of `PContext`.

    def _sleep(self, exits: int, deadline: Deadline) -> None:
        group = self.group
        self.loop.wait(lambda: group.over or len(group.exits) > exits or self.loans.wanted(), deadline)
        self._lend_terminal(Deadline.after(None))

    def _failed_ranks(self) -> list[int]:
        expiries, exits = self.timers.expiries, self.group.exits
        return sorted(
            super()._failed_ranks(),
            key=lambda rank: expiries[rank].deadline if rank in expiries else exits[rank].at,
        )

    def _returned(self, rank: int) -> tuple[bool, Any]:
        return self.core.channels.returned(rank, _byvalue.loads)

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
        if "store" in self.__dict__:
            self.store.close()
        self.loop.call(self.core.close)
        self._port.close()


def _has_ended(answer: Any) -> bool:
    return isinstance(answer, RankExited)
