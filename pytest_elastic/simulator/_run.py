"""One execution: rank functions over one store, one clock and one scheduler.

*Theory of operation.*  A rank runs until it wants something (`Seat.reach`): it leaves a `Step`, and goes on
with `Run.next` itself, since it has the baton.  That first lets every rank run that has an answer and has not
used it yet.  When all stand at their next steps it asks the scheduler, does the step on behalf of its rank,
and starts again.  So a hand-over is needed only for a rank that has code to run.

*Time* stands still while anybody can do anything.  When nobody can, the clock jumps to the earliest alarm (of
a wait, a sleep, a timer, a fault) and all that are due become steps, in any order.  With `expiries` alarms
may also ring before, as if the ranks had been slow: the earliest one is then a step at any time, so often.

*Fairness.*  A schedule may let one rank wait for another in a loop, for ever.  After `UNFAIR` steps the ranks
take turns, whatever the scheduler says; `Turns` says when that is a livelock.

*The end* comes when every rank has returned or nobody can go on.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from pytest_elastic.clock import VirtualClock
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.faults import Watch
from pytest_elastic.simulator._execution import Blocked, Execution, Setting
from pytest_elastic.simulator._place import place_of
from pytest_elastic.simulator._scheduler import Decision, Kind, Scheduler, Step
from pytest_elastic.simulator._seat import ASLEEP, BLOCKED, ENDED, PENDING, READY, Seat
from pytest_elastic.simulator._strike import strike, strike_at_line
from pytest_elastic.simulator._task import HOME, Crew
from pytest_elastic.simulator._turns import UNFAIR, Turns
from pytest_elastic.store import StoreState, Waiter, as_torchs, timeout_error

# A named tuple's own constructor takes twice as long, and one is made for each step.
_new = tuple.__new__


class Run:
    """The machine of one execution.

    Attributes:
        current: who has the baton.
        over: no further step will be done.
        crash: what the scheduler, or a defect of this package, raised.
        offers: by rank, the step that it can do now.
        gone: the store's server is gone.
    """

    def __init__(self, setting: Setting, scheduler: Scheduler, crew: Crew) -> None:
        self.setting, self.scheduler, self.crew = setting, scheduler, crew
        self.state = StoreState(setting.wake)
        self.clock = VirtualClock()
        speeds = [1 + skew for skew in setting.skew] + [1.0] * setting.ranks
        self.seats = [Seat(self, number, speeds[number]) for number in range(setting.ranks)]
        self.offers: list[Step | None] = [None] * setting.ranks
        self.ready = deque(range(setting.ranks))
        self.execution = Execution(setting, results=[None] * setting.ranks)
        self.watch = Watch(setting.faults) if setting.faults else None
        self.current, self.over, self.gone = HOME, False, False
        self.crash: BaseException | None = None
        self.asked_time = False
        self._last, self._decisions = -1, 0
        self._expiries = setting.expiries
        self._jumped = False

    def now(self, speed: float) -> float:
        self.asked_time = True
        return self.clock.now * speed

    def wrote(self, seat: Seat, line: str) -> None:
        if self.watch is not None and not self.over:
            strike_at_line(self, seat, self.watch.wrote(seat.number, line))

    def next(self) -> int:
        """Who runs next: a rank with code to run, or `HOME` when the execution is over."""
        seat = self.seats[self.current]
        if seat.status == PENDING and not seat.frozen:
            self.offers[seat.number] = seat.step
        try:
            while not self.ready and not self.over:
                steps = list(filter(None, self.offers))
                if not steps or self._jumped or self._expiries:
                    steps += self._timed(steps)
                if steps:
                    self._advance(steps)
                else:
                    self.over = True
            return HOME if self.over else self.ready.popleft()
        except BaseException as error:
            self.crash, self.over = error, True
            return HOME

    def _advance(self, steps: list[Step]) -> None:
        """Do one of the enabled steps."""
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
            self.scheduler, self.execution.turns = Turns(self), UNFAIR
        _DO[step.kind](self, self.seats[step.rank])
        if self.state.woken:
            self.wake()

    def _timed(self, steps: list[Step]) -> list[Step]:
        """What time can do, beside what ranks can do."""
        return self._expiring() if steps else self._jump()

    def _expiring(self) -> list[Step]:
        """The alarms that may ring: those that are due, or the earliest while some may ring early."""
        limit = self.clock.now
        if self._expiries:
            limit = max(limit, min(seat.due for seat in self.seats))
        due = [_alarm_of(seat) for seat in self.seats if seat.due <= limit < math.inf]
        if not due:
            self._jumped = False
        return due

    def _jump(self) -> list[Step]:
        """Nobody can run: let time pass, unless what ends then is a hang."""
        due = min(seat.due for seat in self.seats)
        late = due <= self.clock.now  # What is due rings, before anything is called a hang.
        if due == math.inf or not (late or self.setting.may_timeout or not self._hangs()):
            return []
        self.clock.now = max(self.clock.now, due)
        self._jumped = True
        return self._expiring()

    def _hangs(self) -> bool:
        return not any(seat.passes for seat in self.seats)

    # What a step does.

    def call(self, seat: Seat) -> None:
        step = seat.step
        self.offers[seat.number] = None
        if self.watch is not None:
            if not seat.excused:
                seat.excused = True
                if strike(self, seat, self.watch):
                    return
            seat.excused = False
        try:
            if self.gone:
                raise DistNetworkError("the store's server is gone")
            answer = getattr(self.state, step.name)(*step.arguments)
        except Exception as error:
            seat.error, answer = error, None
        if type(answer) is Waiter:
            self._block(seat, answer)
        else:
            seat.answer, seat.status = answer, READY
            self.ready.append(seat.number)

    def _block(self, seat: Seat, waiter: Waiter) -> None:
        waiter.client = seat.number
        seat.status, seat.waiter, seat.began = BLOCKED, waiter, self.clock.now
        if seat.seconds <= 0:
            self._time_out(seat)
        else:
            seat.set_alarm("wait", self.clock.now + seat.seconds / seat.speed)

    def _time_out(self, seat: Seat) -> None:
        assert seat.waiter is not None
        elapsed = (self.clock.now - seat.began) * seat.speed
        error = timeout_error(self.state.missing(seat.waiter), seat.seconds, elapsed)
        self.fail(seat, as_torchs(error))

    def fail(self, seat: Seat, error: Exception) -> None:
        """End a rank's wait with an error."""
        assert seat.waiter is not None
        self.state.abandon(seat.waiter)
        seat.error = error
        self.release(seat, None)

    def release(self, seat: Seat, answer: Any) -> None:
        """Whatever a rank waited for is there."""
        if seat.waiter is not None:
            seat.waiter, seat.woken = None, False
            seat.clear_alarm("wait")
        self.offers[seat.number] = None
        seat.answer, seat.status = answer, READY
        if not seat.frozen:
            self.ready.append(seat.number)

    def wake(self) -> None:
        """Go on with the waiters whom the last write concerns."""
        woken = self.state.woken[:]
        self.state.woken.clear()
        for waiter in woken:
            seat = self.seats[waiter.client]  # type: ignore[call-overload]
            if waiter.done:
                self.release(seat, waiter.result)
            else:
                seat.woken = True
                self.offer(seat)

    def offer(self, seat: Seat) -> None:
        """Let a rank's step, if it has one, be chosen."""
        if seat.frozen:
            self.offers[seat.number] = None
        elif seat.status == PENDING:
            self.offers[seat.number] = seat.step
        elif seat.woken:
            self.offers[seat.number] = seat.step._replace(kind="resume")

    def resume(self, seat: Seat) -> None:
        assert seat.waiter is not None
        self.offers[seat.number], seat.woken = None, False
        if self.state.resume(seat.waiter):
            self.release(seat, seat.waiter.result)

    def expire(self, seat: Seat) -> None:
        if seat.due > self.clock.now:
            self._expiries -= 1
            self.clock.now = seat.due
            self._jumped = True
        name = seat.alarm()
        seat.clear_alarm(name)
        if name == "wait":
            self._time_out(seat)
        elif name == "sleep":
            self.release(seat, None)
        elif name == "delay":
            seat.status = PENDING
            self.offer(seat)
        elif name == "stop":
            self.thaw(seat)
        else:
            self.execution.expired[seat.number] = name.removeprefix("timer ")
            self.kill(seat)

    def thaw(self, seat: Seat) -> None:
        """A stopped rank goes on; what became due meanwhile happens now."""
        seat.clear_alarm("stop")
        seat.freeze(False)
        self._jumped = True
        self.offer(seat)
        if seat.status == READY and seat.number not in self.ready:
            self.ready.append(seat.number)

    def kill(self, seat: Seat) -> None:
        """A rank does nothing more; its function unwinds."""
        if seat.waiter is not None:
            self.state.abandon(seat.waiter)
            seat.waiter, seat.woken = None, False
        seat.alarms.clear()
        seat.freeze(False)
        seat.unwinding, seat.status, self.offers[seat.number] = True, READY, None
        if seat.number not in self.ready:
            self.ready.append(seat.number)

    def sleep(self, seat: Seat) -> None:
        seconds = seat.step.arguments[0]
        self.offers[seat.number] = None
        if seconds > 0:
            seat.status = ASLEEP
            seat.set_alarm("sleep", self.clock.now + seconds / seat.speed)
        else:
            self.release(seat, None)

    def timer(self, seat: Seat) -> None:
        scope, *expiration = seat.step.arguments
        if expiration:
            seat.set_alarm(f"timer {scope}", max(self.clock.now, expiration[0] / seat.speed))
        else:
            seat.clear_alarm(f"timer {scope}")
        self.release(seat, None)

    def point(self, seat: Seat) -> None:
        self.release(seat, None)

    def blocked(self) -> tuple[Blocked, ...]:
        """Who waits for the store, by rank."""
        return tuple(
            Blocked(
                seat.step,
                self.state.missing(seat.waiter),
                seat.alarms.get("wait", math.inf),
                self._place(seat),
            )
            for seat in self.seats
            if seat.waiter is not None and seat.status != ENDED
        )

    def _place(self, seat: Seat) -> str:
        return place_of(reversed(list(traceback.walk_stack(self.crew.frame(seat.number)))))


_DO: dict[Kind, Callable[[Run, Seat], None]] = {
    "call": Run.call,
    "resume": Run.resume,
    "expire": Run.expire,
    "sleep": Run.sleep,
    "timer": Run.timer,
    "point": Run.point,
}


def _alarm_of(seat: Seat) -> Step:
    name = seat.alarm()
    if name in ("wait", "sleep"):
        return seat.step._replace(kind="expire")
    return Step(seat.number, "expire", name)
