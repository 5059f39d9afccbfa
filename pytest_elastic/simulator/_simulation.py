"""Rank functions, run again and again under one schedule after another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.simulator._crew import HOME, Crew, Interrupted, Stuck, make_crew
from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._judge import judge
from pytest_elastic.simulator._patches import installed, listening
from pytest_elastic.simulator._run import Run
from pytest_elastic.simulator._scheduler import Cut, Scheduler
from pytest_elastic.simulator._simulated_rank import ENDED, Seat, Unwind
from pytest_elastic.simulator._store import SimStore

RankFunction = Callable[[int, int, Any], Any]


class Simulation:
    """Runs rank functions `function(rank, world_size, store)`.

    A context manager: inside of it the ranks' threads exist, and `time`, `random`, `uuid` and `expires` are
    the simulation's for whoever is a rank.  Use it from one thread, one at a time in a process.

    Args:
        function: what each rank does; nothing but the store may connect ranks.
        setting: what all executions have in common.
    """

    def __init__(self, function: RankFunction, setting: Setting) -> None:
        self.function, self.setting = function, setting
        self._run: Run | None = None
        self._exit = ExitStack()
        self._crew: Crew | None = None
        self._inside = False

    def __enter__(self) -> Simulation:
        self._exit.enter_context(installed(self._caller))
        if any(fault.trigger.where == "line" for fault in self.setting.faults):
            self._exit.enter_context(listening(self._caller))
        self._exit.callback(self._dismiss)
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = False
        self._exit.close()

    def run(self, scheduler: Scheduler) -> Execution:
        """One execution, from an empty store to its end, verdict included.

        What the scheduler raises, `Cut` excepted, comes out.

        Raises:
            RuntimeError: outside of the simulation's block.
        """
        if not self._inside:
            raise RuntimeError("a simulation runs inside of its `with` block")
        if self._crew is None:
            self._crew = make_crew(self.setting.ranks, self._body)
        run = self._run = Run(self.setting, scheduler, self._crew)
        run.current = run.ready.popleft()
        stuck = self._resume(run, run.current)
        run.over = True
        execution = run.execution
        execution.now, execution.blocked = run.clock.now, run.blocked()
        execution.stopped = tuple(seat.number for seat in run.seats if seat.frozen)
        for seat in run.seats:
            if seat.status != ENDED and (stuck is None or seat.number != stuck.member):
                run.current, seat.unwinding = seat.number, True
                stuck = self._resume(run, seat.number) or stuck
        run.current = HOME
        if stuck is not None:
            self._dismiss()
        return self._finish(run, stuck)

    def _finish(self, run: Run, stuck: Stuck | None) -> Execution:
        execution = run.execution
        if stuck is None and run.crash is not None:
            execution.cut = isinstance(run.crash, Cut)
            if not execution.cut:
                raise run.crash
            return execution
        if run.watch is not None:
            try:
                run.watch.check()
            except UnfiredFaultError as error:
                execution.unfired = error
        execution.verdict = judge(execution, stuck)
        return execution

    def _resume(self, run: Run, number: int) -> Stuck | None:
        try:
            run.crew.resume(number)
        except Stuck as stuck:
            return stuck
        except BaseException:  # The user's interrupt: whoever runs now comes to no other step.
            run.over = True
            self._dismiss()
            raise
        return None

    def _dismiss(self) -> None:
        """The crew goes home; the next run gets another one."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def _body(self, number: int) -> int:
        """A rank's function from its start to its end; who runs next."""
        __tracebackhide__ = True
        run = self._run
        assert run is not None
        seat, execution = run.seats[number], run.execution
        try:
            result, store = None, SimStore(seat)
            for _ in range(0 if seat.unwinding else self.setting.rounds):
                result = self.function(number, self.setting.ranks, store)
            if not seat.unwinding:
                execution.results[number] = result
        except (Unwind, Interrupted):
            pass
        except KeyboardInterrupt as interrupt:
            run.crash, run.over = interrupt, True
        except BaseException as error:
            if not seat.unwinding:
                execution.errors[number] = error
        seat.status = ENDED
        run.current = to = HOME if run.over else run.next()
        return to

    def _caller(self) -> Seat | None:
        """The rank that is calling, `None` for a caller that is none."""
        run = self._run
        if run is None or run.current == HOME or not run.crew.runs(run.current):
            return None
        return run.seats[run.current]
