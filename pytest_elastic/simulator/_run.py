"""One execution: rank functions over one store, one clock and one scheduler.

*Theory of operation.*  A rank runs until it reaches a scheduling point (`SimulatedRank.reach`).  There it
leaves a `Step` and, since it holds the baton, continues with `SimulatedRun.next` itself.  That first lets
every rank run that has an answer it has not used yet.  When all ranks stand at their next steps it asks the
scheduler, does the step on behalf of its rank, and starts again.  So the baton changes hands only for a rank
that has code to run.

*Time* stands still while any rank can run.  When none can, the clock jumps to the earliest alarm (of a wait,
a sleep, a timer, a fault), and all alarms that are due become steps, in any order.  With `expiries` alarms
may also ring early, as if the ranks had been slow: the earliest alarm is then an enabled step at any time,
up to that many times.

*Fairness.*  A schedule may let one rank wait for another in a loop, for ever.  After `UNFAIR` steps
`FairScheduler` replaces the scheduler, and detects livelocks.

*Faults* that are due at an operation happen before the operation has any effect; faults that are due at a
line of output happen after the line has been written.

*The end* comes when every rank has returned or no rank can continue.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pytest_elastic.clock import VirtualClock
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.faults import ENDS, Fault, Watch, lost_answer
from pytest_elastic.scheduling import Decision, Kind, Scheduler, Step
from pytest_elastic.simulator._crew import HOME, Crew
from pytest_elastic.simulator._execution import Blocked, Execution, Setting
from pytest_elastic.simulator._failures import place_of
from pytest_elastic.simulator._fairness import UNFAIR, FairScheduler
from pytest_elastic.simulator._simulated_rank import ASLEEP, BLOCKED, ENDED, PENDING, READY, SimulatedRank
from pytest_elastic.store import (
    OPERATIONS,
    Effect,
    StoreState,
    Waiter,
    as_torchs,
    detail_of,
    timeout_error,
)

# Twice as fast as a named tuple's own constructor.
_new = tuple.__new__


class SimulatedRun:
    """State machine of one execution.

    Attributes:
        current: the rank that holds the baton.
        over: no further step will be done.
        crash: an exception of the scheduler, or of a defect in this package.
        offers: by rank, the step that it can do now.
        server_gone: a fault has ended the store's server.
        asked_time: a rank has read the clock since this was last reset.
    """

    def __init__(self, setting: Setting, scheduler: Scheduler, crew: Crew) -> None:
        self.setting, self.scheduler, self.crew = setting, scheduler, crew
        self.state = StoreState(setting.wake)
        self.clock = VirtualClock()
        speeds = [1 + skew for skew in setting.skew] + [1.0] * setting.ranks
        self.ranks = [SimulatedRank(self, number, speeds[number]) for number in range(setting.ranks)]
        self.offers: list[Step | None] = [None] * setting.ranks
        self.ready = deque(range(setting.ranks))
        self.execution = Execution(setting, results=[None] * setting.ranks)
        self.watch = Watch(setting.faults) if setting.faults else None
        self.current, self.over, self.server_gone = HOME, False, False
        self.crash: BaseException | None = None
        self.asked_time = False
        self._last, self._decisions = -1, 0
        self._expiries = setting.expiries
        self._jumped = False

    def now(self, speed: float) -> float:
        self.asked_time = True
        return self.clock.now * speed

    def next(self) -> int:
        """The rank that runs next, or `HOME` when the execution is over."""
        rank = self.ranks[self.current]
        if rank.status == PENDING and not rank.stopped:
            self.offers[rank.number] = rank.step
        try:
            while not self.ready and not self.over:
                steps = list(filter(None, self.offers))
                if not steps:
                    steps = self.jump()
                elif self._jumped or self._expiries:
                    steps += self.expiring()
                if steps:
                    self.advance(steps)
                else:
                    self.over = True
            return HOME if self.over else self.ready.popleft()
        except BaseException as error:
            self.crash, self.over = error, True
            return HOME

    def advance(self, steps: list[Step]) -> None:
        """Let the scheduler choose one of the enabled steps, and do it."""
        choice = self.scheduler.choose(_new(Decision, (steps, self._last, self._decisions)))
        if len(steps) > 1:
            self._decisions += 1
        if self.over:
            return
        step = steps[choice]
        done = self.execution.steps
        done.append(step)
        self.execution.enabled.append(steps)
        self._last = step.rank
        if len(done) == UNFAIR:
            self.scheduler, self.execution.turns = FairScheduler(self), UNFAIR
        _DO[step.kind](self, self.ranks[step.rank])
        if self.state.woken:
            self.wake()

    # Time.

    def expiring(self) -> list[Step]:
        """Alarms that may ring: those that are due, or the earliest while some may ring early."""
        limit = self.clock.now
        if self._expiries:
            limit = max(limit, min(rank.due for rank in self.ranks))
        due = [_expiry_of(rank) for rank in self.ranks if rank.due <= limit < math.inf]
        if not due:
            self._jumped = False
        return due

    def jump(self) -> list[Step]:
        """Move the clock to the next alarm, unless the alarm would end a hang; the alarms that ring there."""
        due = min(rank.due for rank in self.ranks)
        late = due <= self.clock.now  # An alarm that is due rings before anything is called a hang.
        passes = self.setting.may_timeout or any(rank.passes for rank in self.ranks)
        if due == math.inf or not (late or passes):
            return []
        self.clock.now = max(self.clock.now, due)
        self._jumped = True
        return self.expiring()

    # Effects of each kind of step.

    def call(self, rank: SimulatedRank) -> None:
        step = rank.step
        self.offers[rank.number] = None
        if self.watch is not None:
            if not rank.struck:
                rank.struck = True
                keys = OPERATIONS[step.name].keys(step.arguments)
                if self.strike(rank, self.watch.called(step.rank, step.name, keys)):
                    return
            rank.struck = False
        try:
            if self.server_gone:
                raise DistNetworkError("the store's server is gone")
            answer = getattr(self.state, step.name)(*step.arguments)
        except Exception as error:
            rank.error, answer = error, None
        if type(answer) is Waiter:
            self.block(rank, answer)
        else:
            rank.answer, rank.status = answer, READY
            self.ready.append(rank.number)

    def block(self, rank: SimulatedRank, waiter: Waiter) -> None:
        waiter.client = rank.number
        rank.status, rank.waiter, rank.began = BLOCKED, waiter, self.clock.now
        if rank.seconds <= 0:
            self.time_out(rank)
        else:
            rank.set_alarm("wait", self.clock.now + rank.seconds / rank.speed)

    def time_out(self, rank: SimulatedRank) -> None:
        assert rank.waiter is not None
        elapsed = (self.clock.now - rank.began) * rank.speed
        error = timeout_error(self.state.missing(rank.waiter), rank.seconds, elapsed)
        self.fail(rank, as_torchs(error))

    def fail(self, rank: SimulatedRank, error: Exception) -> None:
        """End a rank's wait with an error."""
        assert rank.waiter is not None
        self.state.abandon(rank.waiter)
        rank.error = error
        self.release(rank)

    def release(self, rank: SimulatedRank, answer: Any = None) -> None:
        """Let a rank continue with the answer that it waited for; an exception is raised in it."""
        if rank.waiter is not None:
            rank.waiter, rank.woken = None, False
            rank.clear_alarm("wait")
        self.offers[rank.number] = None
        if isinstance(answer, Exception):
            rank.error, answer = answer, None
        rank.answer, rank.status = answer, READY
        if not rank.stopped:
            self.ready.append(rank.number)

    def wake(self) -> None:
        """Release the waiters that the last write satisfied."""
        woken = self.state.woken[:]
        self.state.woken.clear()
        for waiter in woken:
            rank = self.ranks[waiter.client]  # type: ignore[call-overload]
            if waiter.done:
                self.release(rank, waiter.result)
            else:
                rank.woken = True
                self.offer(rank)

    def offer(self, rank: SimulatedRank) -> None:
        """Put a rank's pending step, if it has one, among the enabled ones."""
        if rank.stopped:
            self.offers[rank.number] = None
        elif rank.status == PENDING:
            self.offers[rank.number] = rank.step
        elif rank.woken:
            self.offers[rank.number] = rank.step._replace(kind="resume")

    def resume(self, rank: SimulatedRank) -> None:
        assert rank.waiter is not None
        self.offers[rank.number], rank.woken = None, False
        if self.state.resume(rank.waiter):
            self.release(rank, rank.waiter.result)

    def expire(self, rank: SimulatedRank) -> None:
        if rank.due > self.clock.now:
            self._expiries -= 1
            self.clock.now = rank.due
            self._jumped = True
        name = rank.alarm()
        rank.clear_alarm(name)
        if name == "wait":
            self.time_out(rank)
        elif name == "sleep":
            self.release(rank)
        elif name == "delay":
            rank.status = PENDING
            self.offer(rank)
        elif name == "stop":
            self.unstop(rank)
        else:
            self.execution.expired[rank.number] = name.removeprefix("timer ")
            self.kill(rank)

    def sleep(self, rank: SimulatedRank) -> None:
        seconds = rank.step.arguments[0]
        self.offers[rank.number] = None
        if seconds > 0:
            rank.status = ASLEEP
            rank.set_alarm("sleep", self.clock.now + seconds / rank.speed)
        else:
            self.release(rank)

    def timer(self, rank: SimulatedRank) -> None:
        scope, *expiration = rank.step.arguments
        if expiration:
            rank.set_alarm(f"timer {scope}", max(self.clock.now, expiration[0] / rank.speed))
        else:
            rank.clear_alarm(f"timer {scope}")
        self.release(rank)

    # Faults.

    def wrote(self, rank: SimulatedRank, line: str) -> None:
        """Strike with the faults that are due at a line which the running rank has written."""
        if self.watch is not None and not self.over:
            self.strike(rank, self.watch.wrote(rank.number, line))
            if rank.unwinding:  # It ends where it is: the scheduler need not resume it.
                self.ready.remove(rank.number)

    def strike(self, rank: SimulatedRank, faults: Sequence[Fault]) -> bool:
        """Let faults that are due at a rank's doing happen; true if they hold back its pending operation."""
        held = False
        for fault in faults:
            victim = rank if fault.rank is None else self.ranks[fault.rank]
            self.execution.steps.append(Step(victim.number, "fault", fault.kind, (str(fault),)))
            self.execution.enabled.append(())
            if victim.status != ENDED:
                held |= self.inject(fault, victim) and victim is rank
        return held

    def inject(self, fault: Fault, victim: SimulatedRank) -> bool:
        """Let one fault happen; true if its victim cannot do its pending operation now."""
        match fault.kind:
            case kind if kind in ENDS:
                self.execution.killed[victim.number] = fault
                self.kill(victim)
            case "stop":
                if fault.seconds is not None:
                    victim.alarms["stop"] = self.clock.now + fault.seconds
                victim.set_stopped(True)
                self.offer(victim)
            case "resume":
                if victim.stopped:
                    self.unstop(victim)
                return False
            case "delay" | "late_join":
                assert fault.seconds is not None
                victim.status = ASLEEP
                victim.set_alarm("delay", self.clock.now + fault.seconds)
            case "drop":
                self.drop(victim)
            case "server_gone":
                self.server_gone = True
                for waiting in self.ranks:
                    if waiting.waiter is not None:
                        self.fail(waiting, DistNetworkError("the store's server is gone"))
                return False
        return True

    def kill(self, rank: SimulatedRank) -> None:
        """End a rank: its function unwinds and reaches no other step."""
        if rank.waiter is not None:
            self.state.abandon(rank.waiter)
            rank.waiter, rank.woken = None, False
        rank.alarms.clear()
        rank.set_stopped(False)
        rank.unwinding, rank.status, self.offers[rank.number] = True, READY, None
        if rank.number not in self.ready:
            self.ready.append(rank.number)

    def unstop(self, rank: SimulatedRank) -> None:
        """Let a stopped rank continue; alarms that became due meanwhile ring now."""
        rank.clear_alarm("stop")
        rank.set_stopped(False)
        self._jumped = True
        self.offer(rank)
        if rank.status == READY and rank.number not in self.ready:
            self.ready.append(rank.number)

    def drop(self, rank: SimulatedRank) -> None:
        """Answer a rank's operation without doing it."""
        try:
            rank.answer = lost_answer(self.state, (rank.step.name, *rank.step.arguments))
        except Exception as error:
            rank.error = error
        rank.struck, rank.status = False, READY
        self.ready.append(rank.number)

    def blocked(self) -> tuple[Blocked, ...]:
        """The ranks that wait for the store, in order."""
        found = []
        for rank in self.ranks:
            if rank.waiter is not None and rank.status != ENDED:
                frames = reversed(list(traceback.walk_stack(self.crew.frame(rank.number))))
                deadline = rank.alarms.get("wait", math.inf)
                missing = self.state.missing(rank.waiter)
                absent = self.absent(rank.step, missing)
                found.append(Blocked(rank.step, missing, deadline, place_of(frames), absent))
        return tuple(found)

    def absent(self, step: Step, missing: Sequence[str]) -> tuple[int, ...]:
        """The ranks whose keys are missing in a collective; `()` if it is none, or they are not known."""
        if OPERATIONS[step.name].effect is not Effect.EXCHANGE:
            return ()
        members = detail_of(self.state.meeting_call(step.arguments[0])).get("members", ())
        ranks = [members[int(key.rpartition("/")[2])] for key in missing] if members else []
        return () if -1 in ranks else tuple(ranks)


_DO: dict[Kind, Callable[[SimulatedRun, SimulatedRank], None]] = {
    "call": SimulatedRun.call,
    "resume": SimulatedRun.resume,
    "expire": SimulatedRun.expire,
    "sleep": SimulatedRun.sleep,
    "timer": SimulatedRun.timer,
    "point": SimulatedRun.release,
}


def _expiry_of(rank: SimulatedRank) -> Step:
    """The step in which a rank's next alarm rings."""
    name = rank.alarm()
    if name in ("wait", "sleep"):
        return rank.step._replace(kind="expire")
    return Step(rank.number, "expire", name)
