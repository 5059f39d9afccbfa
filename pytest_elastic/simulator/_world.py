"""The simulated world: rank functions over one store, one clock and one scheduler.

*Theory of operation.*  A rank runs until it wants something (`_Seat.perform`): then it leaves a `Step` and
whoever holds the baton goes on with `_Run.next`, wherever that is.  That first lets every rank run that has
an answer and has not used it yet.  When all stand at their next steps it asks the scheduler, does the step
on behalf of its rank, and starts again.  So one hand-over is needed only for a rank that has code to run.

*Time* stands still while anybody can do anything.  When nobody can, the clock jumps to the earliest deadline
(of a wait, a sleep, a timer) and all that are due become steps, in any order.  With `expiries` a deadline
may also fire before, as if the ranks had been slow: the earliest one is then a step at any time.

*The end* comes when every rank has returned or nobody can go on.  Ranks that did not return are unwound:
their pending operation raises `Unwind`, and so does every further one.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pytest_elastic.clock import VirtualClock
from pytest_elastic.simulator._ambient import installed
from pytest_elastic.simulator._execution import Blocked, Execution, Setting
from pytest_elastic.simulator._judge import judge
from pytest_elastic.simulator._scheduler import Cut, Decision, Kind, Scheduler, Step
from pytest_elastic.simulator._store import SimStore
from pytest_elastic.simulator._task import HOME, Crew, Stuck, make_crew
from pytest_elastic.store._handle import timeout_error
from pytest_elastic.store._state import StoreState, Waiter

RankFunction = Callable[[int, int, Any], Any]


class Unwind(BaseException):
    """Ends a rank's function whose execution is over."""


# What a rank is doing.
_READY, _PENDING, _BLOCKED, _ASLEEP, _ENDED = range(5)


class _Seat:
    """A rank: what it is about to do, what it waits for, what it got."""

    __slots__ = (
        "answer", "began", "due", "error", "number", "run", "seconds", "source", "speed", "status", "step",
        "unwinding", "waiter", "woken",
    )  # fmt: skip

    def __init__(self, run: _Run, number: int, speed: float) -> None:
        self.run, self.number, self.speed = run, number, speed
        self.status = _READY
        self.step: Step = Step(number, "point", "start")
        self.seconds = self.began = 0.0
        self.waiter: Waiter | None = None
        self.due = math.inf
        self.woken = self.unwinding = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.source: random.Random | None = None

    def perform(self, name: str, arguments: tuple[Any, ...], seconds: float) -> Any:
        self.seconds = seconds
        return self.reach("call", name, arguments)

    def reach(self, kind: Kind, name: str, arguments: tuple[Any, ...]) -> Any:
        """Come to a scheduling point; returns when the step is done, with its answer."""
        run = self.run
        run.admit(self)
        self.step, self.status = Step(self.number, kind, name, arguments), _PENDING
        run.crew.beat += 1
        to = run.next()
        if to != self.number:
            run.current = to
            run.crew.switch(self.number, to)
        if self.unwinding:
            raise Unwind
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.answer

    def now(self) -> float:
        return self.run.clock.now * self.speed

    def sleep(self, seconds: float) -> None:
        self.reach("sleep", "sleep", (float(seconds),))

    def chance(self) -> random.Random:
        if self.source is None:
            self.source = random.Random(self.number)
        return self.source


class _Run:
    """One execution."""

    def __init__(self, setting: Setting, scheduler: Scheduler, crew: Crew) -> None:
        self.setting, self.scheduler, self.crew = setting, scheduler, crew
        self.state = StoreState(setting.wake)
        self.clock = VirtualClock()
        speeds = [1 + skew for skew in setting.skew] + [1.0] * setting.ranks
        self.seats = [_Seat(self, number, speeds[number]) for number in range(setting.ranks)]
        self.ready = deque(range(setting.ranks))
        self.execution = Execution(setting, results=[None] * setting.ranks)
        self.current = HOME
        self.crash: BaseException | None = None
        self._last, self._decisions = -1, 0
        self._expiries = setting.expiries
        self._jumped = False

    def admit(self, seat: _Seat) -> None:
        """Whether the caller may use this seat now."""
        if seat.unwinding:
            raise Unwind
        if seat.number != self.current or not self.crew.runs_here():
            raise RuntimeError(
                f"the simulated store of rank {seat.number} was used by another rank or thread, or too late"
            )

    def next(self) -> int:
        """Who runs next: a rank with an answer, or `HOME` when the execution is over."""
        try:
            while not self.ready:
                steps = self._enabled()
                if not steps and not (steps := self._jump()):
                    return HOME
                choice = self.scheduler.choose(Decision(steps, self._last, self._decisions))
                if len(steps) > 1:
                    self._decisions += 1
                self.do(steps[choice], steps)
            return self.ready.popleft()
        except BaseException as error:
            self.crash = error
            return HOME

    def do(self, step: Step, steps: list[Step]) -> None:
        """Do a step of those that are enabled."""
        self.execution.steps.append(step)
        self.execution.enabled.append(steps)
        self._last = step.rank
        _DO[step.kind](self, self.seats[step.rank])
        if self.state.woken:
            self._wake()

    def _enabled(self) -> list[Step]:
        steps = [
            seat.step if seat.status == _PENDING else _again(seat, "resume")
            for seat in self.seats
            if seat.status == _PENDING or seat.woken
        ]
        if self._jumped or self._expiries:
            steps += self._expiring()
        return steps

    def _expiring(self) -> list[Step]:
        """The deadlines that may fire: those that have passed, or the earliest while some may fire early."""
        waiting = [seat for seat in self.seats if seat.due < math.inf]
        if not waiting:
            self._jumped = False
            return []
        limit = self.clock.now
        if self._expiries:
            limit = max(limit, min(seat.due for seat in waiting))
        due = [_again(seat, "expire") for seat in waiting if seat.due <= limit]
        if not due:
            self._jumped = False
        return due

    def _jump(self) -> list[Step]:
        """Nobody can run: let time pass, unless that is what a hang would do."""
        due = min((seat.due for seat in self.seats), default=math.inf)
        if due == math.inf:
            return []
        if not self.setting.may_timeout and not any(seat.status == _ASLEEP for seat in self.seats):
            return []
        self.clock.now = due
        self._jumped = True
        return self._expiring()

    def call(self, seat: _Seat) -> None:
        try:
            answer = getattr(self.state, seat.step.name)(*seat.step.arguments)
        except Exception as error:
            seat.error = error
        else:
            if type(answer) is Waiter:
                self._block(seat, answer)
                return
            seat.answer = answer
        seat.status = _READY
        self.ready.append(seat.number)

    def _block(self, seat: _Seat, waiter: Waiter) -> None:
        waiter.client = seat.number
        seat.status, seat.waiter, seat.began = _BLOCKED, waiter, self.clock.now
        if seat.seconds <= 0:
            self._time_out(seat)
        else:
            seat.due = self.clock.now + seat.seconds / seat.speed

    def _time_out(self, seat: _Seat) -> None:
        waiter = seat.waiter
        assert waiter is not None
        elapsed = (self.clock.now - seat.began) * seat.speed
        seat.error = timeout_error(self.state.missing(waiter), seat.seconds, elapsed)
        self.state.abandon(waiter)
        self._release(seat, None)

    def _release(self, seat: _Seat, answer: Any) -> None:
        seat.answer, seat.waiter, seat.woken, seat.due, seat.status = answer, None, False, math.inf, _READY
        self.ready.append(seat.number)

    def _wake(self) -> None:
        woken = self.state.woken[:]
        self.state.woken.clear()
        for waiter in woken:
            seat = self.seats[waiter.client]  # type: ignore[call-overload]
            if waiter.done:
                self._release(seat, waiter.result)
            else:
                seat.woken = True

    def resume(self, seat: _Seat) -> None:
        seat.woken = False
        assert seat.waiter is not None
        if self.state.resume(seat.waiter):
            self._release(seat, seat.waiter.result)

    def expire(self, seat: _Seat) -> None:
        if seat.due > self.clock.now:
            self._expiries -= 1
            self.clock.now = seat.due
            self._jumped = True
        if seat.status == _ASLEEP:
            self._release(seat, None)
        else:
            self._time_out(seat)

    def sleep(self, seat: _Seat) -> None:
        seconds = seat.step.arguments[0]
        seat.status, seat.due = _ASLEEP, self.clock.now + seconds / seat.speed
        if seconds == 0:
            self._release(seat, None)

    def point(self, seat: _Seat) -> None:
        self._release(seat, None)

    def blocked(self) -> tuple[Blocked, ...]:
        """Who waits for the store, by rank."""
        return tuple(
            Blocked(seat.step, self.state.missing(seat.waiter), seat.due)
            for seat in self.seats
            if seat.waiter is not None
        )


_DO: dict[str, Callable[[_Run, _Seat], None]] = {
    "call": _Run.call,
    "resume": _Run.resume,
    "expire": _Run.expire,
    "sleep": _Run.sleep,
    "point": _Run.point,
}


def _again(seat: _Seat, kind: Kind) -> Step:
    return seat.step._replace(kind=kind)


class Simulation:
    """Runs rank functions `function(rank, world_size, store)` under one schedule after another.

    A context manager: inside of it the ranks' threads exist, and `time`, `random` and `uuid` are the
    simulation's for whoever is a rank.  Use it from one thread.
    """

    def __init__(self, function: RankFunction, setting: Setting) -> None:
        if setting.ranks < 1:
            raise ValueError(f"ranks must be at least 1, not {setting.ranks}")
        self.function, self.setting = function, setting
        self._run: _Run | None = None
        self._exit = ExitStack()
        self._crew: Crew | None = None

    def __enter__(self) -> Simulation:
        self._crew = make_crew(self.setting.ranks, self._body)
        self._exit.callback(self._crew.close)
        self._exit.enter_context(installed(self._caller))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def run(self, scheduler: Scheduler) -> Execution:
        """One execution, from an empty store to its end."""
        assert self._crew is not None, "a simulation runs inside of its `with` block"
        run = self._run = _Run(self.setting, scheduler, self._crew)
        run.current = run.ready.popleft()
        stuck = None
        try:
            self._crew.resume(run.current)
        except Stuck as error:
            stuck = error
        execution = run.execution
        execution.now, execution.blocked = run.clock.now, run.blocked()
        self._unwind(run, stuck)
        if isinstance(run.crash, Cut):
            execution.cut = True
        elif run.crash is not None:
            raise run.crash
        else:
            execution.verdict = judge(execution, stuck)
        return execution

    def _unwind(self, run: _Run, stuck: Stuck | None) -> None:
        assert self._crew is not None
        for seat in run.seats:
            if seat.status != _ENDED and (stuck is None or seat.number != stuck.member):
                seat.unwinding = True
                run.current = seat.number
                self._crew.resume(seat.number)
        run.current = HOME

    def _body(self, number: int) -> int:
        """A rank's function from its start to its end; who runs next."""
        run = self._run
        assert run is not None
        seat = run.seats[number]
        if not seat.unwinding:
            try:
                run.execution.results[number] = self.function(number, self.setting.ranks, SimStore(seat))
            except Unwind:
                pass
            except BaseException as error:
                if not seat.unwinding:
                    run.execution.errors[number] = error
        seat.status = _ENDED
        to = HOME if seat.unwinding else run.next()
        run.current = to
        return to

    def _caller(self) -> _Seat | None:
        run = self._run
        if run is None or run.current == HOME or not run.crew.runs_here():
            return None
        return run.seats[run.current]
