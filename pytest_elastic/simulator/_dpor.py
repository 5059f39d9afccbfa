"""Exhaustive search by dynamic partial order reduction (DPOR): every trace, once.

*Theory of operation.*  The search walks the tree of schedules depth first and runs the program from its start
for each leaf, since the state of rank functions cannot be saved.  A *frame* is a node on the current path:
the steps that were possible there, the ones tried or to be tried (`todo`), and the ones that need not be.

* *Source sets* (Abdulla, Aronis, Jonsson, Sagonas: Source Sets, J. ACM 64(4), 2017; Flanagan, Godefroid:
  Dynamic Partial-Order Reduction, POPL 2005).  A frame begins with one step.  Each race of the execution
  asks for another at the frame before its earlier event: some process that can begin the reversed
  continuation, unless one is on the list already (or cannot come: not every deadline may fire early).
* *Sleep sets* (Godefroid).  A step that was tried in a frame sleeps in the branches tried after it, until a
  dependent step happens; an execution in which only sleeping steps are left is cut.

Blocking is treated in `_trace`.  Deadlines need one more rule: a step that another one makes impossible (the
expiry of a wait that is just being answered) leaves no event that could race, so it is put on the list at
that frame; so is the other one of two steps of one rank (a second look, and its expiry).

With `expiries` an expiry moves the clock and is dependent with every step.  The next deadline depends on the
ranks that wait already, so two steps that may set deadlines are dependent.  Under virtual time the clock
moves only when no rank can run, which no schedule can change.

A fault that one rank's operation brings upon another rank makes all steps dependent: nothing is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_elastic.faults import ENDS, SLOWS
from pytest_elastic.scheduling import Cut, Decision, Step, keys_of, ring_order
from pytest_elastic.simulator._dependence import (
    MEET,
    OVERWRITE,
    Footprint,
    Place,
    commute,
    expiring,
    footprint,
)
from pytest_elastic.simulator._failures import Nondeterminism
from pytest_elastic.simulator._run import SimulatedRun
from pytest_elastic.simulator._simulation import Simulation
from pytest_elastic.simulator._trace import Mark, Trace
from pytest_elastic.store import OPERATIONS, Effect, with_effect

_CLOCK: Place = ("clock", "")
_DEADLINES: Place = ("clock", "deadlines")
_BLOCKING = frozenset(name for name, operation in OPERATIONS.items() if operation.blocks)
_WAITING = _BLOCKING - with_effect(Effect.POP)


@dataclass(slots=True)
class _Frame:
    """A node of the tree, by process: the ranks, then the ranks' deadlines.

    Attributes:
        steps: the possible steps, in the order of preference.
        indices: their indices in the decision.
        touched: their footprints.
        asleep: processes whose step was tried elsewhere, with no dependent step since.
        before: the trace's mark, the clock and the numbers of calls before this node.
        todo: the processes to try, tried ones included.
        tried: the processes that are done.
        current: the process being tried.
    """

    steps: dict[int, Step]
    indices: dict[int, int]
    touched: dict[int, Footprint]
    asleep: set[int]
    before: tuple[Mark, float, tuple[int, ...]]
    todo: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)
    current: int = -1


class Dpor:
    """Scheduler of the exhaustive search; serves one execution after another, see `advance`.

    Attributes:
        trace: the current execution as a partial order.
        share: the part of the tree, as far as it is known, that has been searched, 0 to 1.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._ranks = simulation.setting.ranks
        self._explored = simulation.setting.expiries > 0
        faults = simulation.setting.faults
        self._slowed = {fault.rank for fault in faults if fault.kind in SLOWS}
        # Whether one rank's operation may bring a fault upon another rank.
        self._entangled = any(fault.rank is None or fault.watched != fault.rank for fault in faults)
        self._drops = any(fault.kind == "drop" for fault in faults)  # A lost arrival does not count as one.
        self._eager = self._explored or self._drops or simulation.setting.wake == "level"
        self._frames: list[_Frame] = []
        self._run: SimulatedRun
        self.trace = Trace(self._ranks)
        self._depth = 0
        self._open = False  # Whether the last step is not in the trace yet.
        self._now = 0.0
        self._calls = [0] * self._ranks
        self._struck = False

    def choose(self, decision: Decision) -> int:
        if self._depth == 0:
            assert self._simulation.current_run is not None
            self._run = self._simulation.current_run
        if self._depth < len(self._frames):  # Repeats the previous execution, which is in the trace already.
            frame = self._frames[self._depth]
            self._open = self._depth == len(self._frames) - 1
        else:
            if self._open:
                self.settle(decision.steps)
            if self._run.clock.now > self._now:
                self._now = self._run.clock.now
                if not self._explored:
                    self.trace.jump()
            frame = self.grow(decision)
            self._frames.append(frame)
            self._open = True
        self._depth += 1
        self._struck = self._run.ranks[frame.steps[frame.current].rank].struck
        index, once = frame.indices[frame.current], tuple(frame.steps.values())
        steps = decision.steps
        if len(steps) != len(once) or steps[index] != frame.steps[frame.current]:
            raise Nondeterminism(self._depth - 1, once, tuple(steps))
        return index

    def finish(self) -> None:
        """After an execution: add the last step, so that `trace` is complete."""
        if self._open:
            self.settle(())
            self.reverse_deadlines_left()

    def advance(self) -> bool:
        """After an execution: prepare the next one; false if none is left."""
        self.finish()
        while self._frames:
            frame = self._frames[-1]
            frame.tried.add(frame.current)
            left = [process for process in frame.steps if process in frame.todo - frame.tried - frame.asleep]
            if left:
                frame.current = left[0]
                self._depth, self._open = 0, False
                mark, self._now, calls = frame.before
                self._calls = list(calls)
                self.trace.rewind(mark)
                return True
            self._frames.pop()
        return False

    @property
    def share(self) -> float:
        done, width = 0.0, 1.0
        for frame in self._frames:
            width /= len(frame.todo - frame.asleep) or 1
            done += width * len(frame.tried)
        return done if self._frames else 1.0

    def grow(self, decision: Decision) -> _Frame:
        """A new frame for a decision that was not made before."""
        steps, indices, touched = {}, {}, {}
        for index in ring_order(decision.steps, decision.last):
            step = decision.steps[index]
            process = self.process_of(step)
            steps[process], indices[process], touched[process] = step, index, self.footprint_of(step)
        before = self.trace.mark(), self._now, tuple(self._calls)
        frame = _Frame(steps, indices, touched, self.sleepers(steps), before)
        awake = [process for process in steps if process not in frame.asleep]
        if not awake:
            raise Cut
        frame.current = awake[0]
        frame.todo = self.first_choices(awake)
        return frame

    def first_choices(self, awake: Sequence[int]) -> set[int]:
        """The processes that a new frame tries in any case."""
        return {awake[0]}

    def sleepers(self, steps: dict[int, Step]) -> set[int]:
        """The processes of a new frame that sleep there."""
        if not self._frames:
            return set()
        parent = self._frames[-1]
        mine = parent.touched[parent.current]
        return {
            process
            for process in parent.asleep | parent.tried
            if process % self._ranks != parent.current % self._ranks
            and steps.get(process) == parent.steps[process]
            and commute(mine, parent.touched[process])
        }

    def process_of(self, step: Step) -> int:
        return step.rank + self._ranks if step.kind == "expire" else step.rank

    def footprint_of(self, step: Step) -> Footprint:
        """The footprint of a step in the current state."""
        run = self._run
        rank = run.ranks[step.rank]
        found: Footprint = {}
        if step.kind == "expire":
            if rank.waiter is not None:
                found = expiring((rank.step.name, *rank.step.arguments))
        elif step.kind in ("call", "resume") and not self.is_held(step):
            eager = self._eager or rank.seconds <= 0
            found = footprint((step.name, *step.arguments), run.state, eager, self._drops)
        if self._explored:
            found[_CLOCK] = OVERWRITE if step.kind == "expire" else MEET
            if step.name in _BLOCKING or step.kind in ("sleep", "timer") or step.rank in self._slowed:
                found[_DEADLINES] = OVERWRITE
        if self._entangled:
            found[_CLOCK] = OVERWRITE
        return found

    def is_held(self, step: Step) -> bool:
        """Whether a fault holds the operation back."""
        faults = self._simulation.setting.faults
        if not faults or step.kind != "call" or self._run.ranks[step.rank].struck:
            return False
        number = self._calls[step.rank] + 1
        return any(
            fault.rank == step.rank and fault.trigger.nth == number
            for fault in faults
            if (fault.kind in SLOWS or fault.kind in ENDS) and fault.trigger.where == "op"
        )

    def settle(self, steps: Sequence[Step]) -> None:
        """Add the last step to the trace, now that its effects are known."""
        number, self._open = self._depth - 1, False
        frame, trace = self._frames[number], self.trace
        step = frame.steps[frame.current]
        touched = frame.touched[frame.current]
        if step.kind == "call" and not self._struck:
            self._calls[step.rank] += 1
        races = trace.add(frame.current, step, touched)
        self.note_wait(step)
        for other in steps:
            if other.rank != step.rank and self.process_of(other) not in frame.steps:
                trace.wake(number, self.process_of(other))
        self.find_more(steps, races)

    def note_wait(self, step: Step) -> None:
        """Add to the trace the keys that the rank waits for, if it waits."""
        if step.kind in ("call", "resume") and step.name in _WAITING:
            state, waiter = self._run.state, self._run.ranks[step.rank].waiter
            missing = () if waiter is None else state.missing(waiter)
            if state.wake == "level":  # It looks again as soon as the first one is there.
                missing = missing[:1]
            self.trace.wait(step.rank, keys_of(step.name, step.arguments) or (), missing)

    def find_more(self, steps: Sequence[Step], races: list[int]) -> None:
        """Add to earlier frames the processes that must be tried because of the last step."""
        frame = self._frames[self._depth - 1]
        for race in races:
            self.reverse(self._frames[race], self.trace.initials(race, self._depth - 1))
        rank = frame.current % self._ranks
        for process, step in frame.steps.items():
            if process != frame.current and (step.rank == rank or step not in steps):
                frame.todo.add(process)

    def reverse(self, frame: _Frame, initials: list[int]) -> None:
        if not any(process in frame.todo or process in frame.asleep for process in initials):
            frame.todo.update([process for process in initials if process in frame.steps][-1:])

    def reverse_deadlines_left(self) -> None:
        """Reverse the deadlines left at the end: they could have fired before."""
        ranks = self._run.ranks
        due = min(rank.due for rank in ranks)
        if self._explored and due < math.inf:
            for process in [rank.number + self._ranks for rank in ranks if rank.due == due]:
                for race, initials in self.trace.would_race(process, {_CLOCK: OVERWRITE}):
                    self.reverse(self._frames[race], initials)
