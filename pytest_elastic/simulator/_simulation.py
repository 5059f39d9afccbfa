"""Simulations: rank functions that run under one schedule after another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.scheduling import Cut, Scheduler
from pytest_elastic.simulator._crew import HOME, Crew, Interrupted, Stuck, make_crew
from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._failures import judge
from pytest_elastic.simulator._patches import installed, listening, refusing
from pytest_elastic.simulator._run import SimulatedRun
from pytest_elastic.simulator._simulated_rank import ENDED, SimulatedRank, SimulatedStore, Unwind

RankFunction = Callable[[int, int, Any], Any]


class Simulation:
    """Runs a rank function `function(rank, world_size, store)` under many schedules.

    A context manager: inside of its block the ranks' threads exist, and `time`, `random`, `uuid` and
    `expires` are simulated for the ranks.  Use it from one thread, and one at a time in a process.

    Args:
        function: called by each rank; ranks must share nothing but the store.  If it has an attribute
            `around`, a function, the context manager that this gives is entered for the block.
        setting: the settings of all executions.

    Attributes:
        current_run: the execution in progress or the latest one, `None` before the first.

    >>> from pytest_elastic.simulator import Setting, SparseScheduler
    >>> def count(rank, world_size, store):
    ...     return store.add("count", 1)
    >>> with Simulation(count, Setting(2)) as simulation:
    ...     [simulation.run(SparseScheduler(delays)).results for delays in ([], [(0, 1)])]
    [[1, 2], [2, 1]]
    """

    def __init__(self, function: RankFunction, setting: Setting) -> None:
        self.function, self.setting = function, setting
        self.current_run: SimulatedRun | None = None
        self._exit = ExitStack()
        self._crew: Crew | None = None
        self._inside = self._has_torch = False

    def __enter__(self) -> Simulation:
        self._exit.enter_context(installed(self._caller))
        self._exit.enter_context(getattr(self.function, "around", nullcontext)())
        self._suit_torch()
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
        """Run one execution, from an empty store to its verdict.

        Blocks until the execution has ended.  An exception of the scheduler, `Cut` excepted, is raised here.

        Raises:
            RuntimeError: outside of the simulation's block.
        """
        if not self._inside:
            raise RuntimeError("a simulation runs inside of its `with` block")
        if self._has_torch != ("torch" in sys.modules):
            self._suit_torch()
        if self._crew is None:
            self._crew = make_crew(self.setting.ranks, self._body)
        run = self.current_run = SimulatedRun(self.setting, scheduler, self._crew)
        run.current = run.ready.popleft()
        stuck = self._resume(run, run.current)
        run.over = True
        execution = run.execution
        execution.now, execution.blocked = run.clock.now, run.blocked()
        execution.stopped = tuple(rank.number for rank in run.ranks if rank.stopped)
        for rank in run.ranks:
            if rank.status != ENDED and (stuck is None or rank.number != stuck.member):
                run.current, rank.unwinding = rank.number, True
                stuck = self._resume(run, rank.number) or stuck
        run.current = HOME
        if stuck is not None:
            self._dismiss()
        return self._finish(run, stuck)

    def _suit_torch(self) -> None:
        """At the begin, and when a rank has imported torch: its ranks are threads, and share no groups."""
        self._has_torch = "torch" in sys.modules
        if self._has_torch and not hasattr(self.function, "around"):
            self._exit.enter_context(refusing(self._caller))
        self._dismiss()

    def _finish(self, run: SimulatedRun, stuck: Stuck | None) -> Execution:
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

    def _resume(self, run: SimulatedRun, number: int) -> Stuck | None:
        try:
            run.crew.resume(number)
        except Stuck as stuck:
            return stuck
        except BaseException:  # The user's interrupt: the running rank reaches no other step.
            run.over = True
            self._dismiss()
            raise
        return None

    def _dismiss(self) -> None:
        """Close the crew; the next execution gets another one."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def _body(self, number: int) -> int:
        """Run a rank's function to its end; returns the rank that runs next."""
        __tracebackhide__ = True
        run = self.current_run
        assert run is not None
        rank, execution = run.ranks[number], run.execution
        try:
            result, store = None, SimulatedStore(rank)
            for _ in range(0 if rank.unwinding else self.setting.rounds):
                result = self.function(number, self.setting.ranks, store)
            if not rank.unwinding:
                execution.results[number] = result
        except (Unwind, Interrupted):
            pass
        except KeyboardInterrupt as interrupt:
            run.crash, run.over = interrupt, True
        except BaseException as error:
            if not rank.unwinding:
                execution.errors[number] = error
        rank.status = ENDED
        run.current = to = HOME if run.over else run.next()
        return to

    def _caller(self) -> SimulatedRank | None:
        """The rank that is calling, `None` outside of ranks."""
        run = self.current_run
        if run is None or run.current == HOME or not run.crew.runs(run.current):
            return None
        return run.ranks[run.current]
