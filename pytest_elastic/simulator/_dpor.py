"""Every trace, once: exhaustive search by dynamic partial order reduction.

*Theory of operation.*  The search walks the tree of schedules depth first, and runs the program from its
start for each leaf (nothing of it is saved: rank functions are code).  A *frame* is a node on the current
path: the steps that were possible there, which were or are to be tried (`todo`), and which need not be.

* *Source sets* (Abdulla, Aronis, Jonsson, Sagonas: Source Sets, J. ACM 64(4), 2017; Flanagan, Godefroid:
  Dynamic Partial-Order Reduction, POPL 2005).  A frame begins with one step.  Each race of the execution
  asks for another at the frame before its earlier event: some process that can begin the reversed
  continuation, unless one is there already (or it cannot: not every deadline may fire early).
* *Sleep sets* (Godefroid).  A step that was tried in a frame sleeps in what is tried after it, until
  something dependent happens; an execution in which only sleepers are left is cut.

Blocking is treated in `_trace`.  Deadlines need one more rule: a step that another one makes impossible (the
expiry of a wait that is just being answered) leaves no event that could race, so it is put on the list at
that frame; so is the other one of two steps of one rank (a second look, and its expiry).

Under explored time an expiry moves the clock, and is dependent with every step.  Which deadline is the next
depends on who waits already: two steps that may set deadlines are dependent.  Under virtual time the clock
moves only when all rest, which no schedule can change.

A fault that one rank's doing brings upon another makes all steps dependent: then nothing is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_elastic.faults import Fault
from pytest_elastic.simulator._dependence import (
    MEET,
    OVERWRITE,
    PRESENCE,
    Footprint,
    Place,
    commute,
    footprint,
)
from pytest_elastic.simulator._run import Run
from pytest_elastic.simulator._scheduler import Cut, Decision, Step, keys_of, ring_order
from pytest_elastic.simulator._trace import Mark, Trace
from pytest_elastic.simulator._verdict import Nondeterminism
from pytest_elastic.simulator._world import Simulation
from pytest_elastic.store import OPERATIONS, Effect, with_effect

_CLOCK: Place = ("clock", "")
_DEADLINES: Place = ("clock", "deadlines")
_BLOCKING = frozenset(name for name, operation in OPERATIONS.items() if operation.blocks)
_WAITING = _BLOCKING - with_effect(Effect.POP)
_SLOWING = frozenset({"stop", "delay", "late_join"})
_HOLDING = _SLOWING | {"kill", "exit"}


@dataclass(slots=True)
class _Frame:
    """A node of the tree, by process: the ranks, then the ranks' deadlines.

    Attributes:
        steps: what was possible, in the order of preference.
        indices: where, among the steps of the decision.
        touched: what each of them touches.
        asleep: those that were tried before, elsewhere, with nothing dependent since.
        before: where the trace, the clock and the numbers of calls stood.
        todo: those to be tried, tried ones included.
        tried: the finished ones.
        current: the one being tried.
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
    """A scheduler that is good for one execution after another; see `advance`.

    Attributes:
        trace: of the present execution.
        share: how much of the tree as it is known has been searched, 0 to 1.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._ranks = simulation.setting.ranks
        self._explored = simulation.setting.expiries > 0
        faults = simulation.setting.faults
        self._slowed = {fault.rank for fault in faults if fault.kind in _SLOWING}
        self._entangled = any(map(_is_far, faults))
        self._drops = any(fault.kind == "drop" for fault in faults)  # A lost arrival is none.
        self._eager = self._explored or self._drops or simulation.setting.wake == "level"
        self._frames: list[_Frame] = []
        self._run: Run
        self.trace = Trace(self._ranks)
        self._depth = 0
        self._open = False  # Whether the last step is not noted yet.
        self._now = 0.0
        self._calls = [0] * self._ranks
        self._excused = False

    def choose(self, decision: Decision) -> int:
        if self._depth == 0:
            assert self._simulation._run is not None
            self._run = self._simulation._run
        if self._depth < len(self._frames):  # As in the execution before, which is noted already.
            frame = self._frames[self._depth]
            self._open = self._depth == len(self._frames) - 1
        else:
            if self._open:
                self._settle(decision.steps)
            self._pass_time()
            frame = self._grow(decision)
            self._frames.append(frame)
            self._open = True
        self._depth += 1
        self._excused = self._run.seats[frame.steps[frame.current].rank].excused
        return self._same(frame, decision)

    def _same(self, frame: _Frame, decision: Decision) -> int:
        """The index of the frame's step in this decision, which must be the one it was made for."""
        index, once = frame.indices[frame.current], tuple(frame.steps.values())
        steps = decision.steps
        if len(steps) != len(once) or steps[index] != frame.steps[frame.current]:
            raise Nondeterminism(self._depth - 1, once, tuple(steps))
        return index

    def finish(self) -> None:
        """After an execution: note the last step, so that `trace` is whole."""
        if self._open:
            self._settle(())
            self._ring_after_the_end()

    def advance(self) -> bool:
        """After an execution: prepare the next one; false if there is none left."""
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

    def _grow(self, decision: Decision) -> _Frame:
        """A new frame, for a decision that was never made before."""
        steps, indices, touched = {}, {}, {}
        for index in ring_order(decision.steps, decision.last):
            step = decision.steps[index]
            process = self._process(step)
            steps[process], indices[process], touched[process] = step, index, self._touched(step)
        before = self.trace.mark(), self._now, tuple(self._calls)
        frame = _Frame(steps, indices, touched, self._sleepers(steps), before)
        awake = [process for process in steps if process not in frame.asleep]
        if not awake:
            raise Cut
        frame.current = awake[0]
        frame.todo = self._first(awake)
        return frame

    def _first(self, awake: Sequence[int]) -> set[int]:
        return {awake[0]}

    def _sleepers(self, steps: dict[int, Step]) -> set[int]:
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

    def _process(self, step: Step) -> int:
        return step.rank + self._ranks if step.kind == "expire" else step.rank

    def _touched(self, step: Step) -> Footprint:
        """What a step touches now."""
        run = self._run
        seat = run.seats[step.rank]
        found: Footprint = {}
        if step.kind == "expire":
            keys = () if seat.waiter is None else keys_of(seat.step.name, seat.step.arguments) or ()
            for key in keys:
                found[key] = found["queue", key] = PRESENCE
        elif step.kind in ("call", "resume") and not self._is_held(step):
            eager = self._eager or seat.seconds <= 0
            found = footprint((step.name, *step.arguments), run.state, eager, self._drops)
        if self._explored:
            found[_CLOCK] = OVERWRITE if step.kind == "expire" else MEET
            if step.name in _BLOCKING or step.kind in ("sleep", "timer") or step.rank in self._slowed:
                found[_DEADLINES] = OVERWRITE
        if self._entangled:
            found[_CLOCK] = OVERWRITE
        return found

    def _is_held(self, step: Step) -> bool:
        """Whether a fault keeps the operation from being done now."""
        faults = self._simulation.setting.faults
        if not faults or step.kind != "call" or self._run.seats[step.rank].excused:
            return False
        number = self._calls[step.rank] + 1
        return any(
            fault.rank == step.rank and fault.trigger.nth == number
            for fault in faults
            if fault.kind in _HOLDING and fault.trigger.where == "op"
        )

    def _settle(self, steps: Sequence[Step]) -> None:
        """Note the step that was done last, now that its effects are there."""
        number, self._open = self._depth - 1, False
        frame, trace = self._frames[number], self.trace
        step = frame.steps[frame.current]
        touched = frame.touched[frame.current]
        if step.kind == "call" and not self._excused:
            self._calls[step.rank] += 1
        races = trace.add(frame.current, step, touched)
        self._wait(step)
        for other in steps:
            if other.rank != step.rank and self._process(other) not in frame.steps:
                trace.wake(number, self._process(other))
        self._find_more(steps, races)

    def _wait(self, step: Step) -> None:
        """Note what the rank waits for, if it does."""
        if step.kind in ("call", "resume") and step.name in _WAITING:
            state, waiter = self._run.state, self._run.seats[step.rank].waiter
            missing = () if waiter is None else state.missing(waiter)
            if state.wake == "level":  # It looks again as soon as the first one is there.
                missing = missing[:1]
            self.trace.wait(step.rank, keys_of(step.name, step.arguments) or (), missing)

    def _find_more(self, steps: Sequence[Step], races: list[int]) -> None:
        """What else is to be tried, in view of the step that was done last."""
        frame = self._frames[self._depth - 1]
        for race in races:
            self._reverse(self._frames[race], self.trace.initials(race, self._depth - 1))
        rank = frame.current % self._ranks
        for process, step in frame.steps.items():
            if process != frame.current and (step.rank == rank or step not in steps):
                frame.todo.add(process)

    def _reverse(self, frame: _Frame, initials: list[int]) -> None:
        if not any(process in frame.todo or process in frame.asleep for process in initials):
            frame.todo.update([process for process in initials if process in frame.steps][-1:])

    def _ring_after_the_end(self) -> None:
        """A deadline that could still fire when all had come to rest could have fired before."""
        seats = self._run.seats
        due = min(seat.due for seat in seats)
        if self._explored and due < math.inf:
            for process in [seat.number + self._ranks for seat in seats if seat.due == due]:
                for race, initials in self.trace.would_race(process, {_CLOCK: OVERWRITE}):
                    self._reverse(self._frames[race], initials)

    def _pass_time(self) -> None:
        if self._run.clock.now > self._now:
            self._now = self._run.clock.now
            if not self._explored:
                self.trace.jump()


def _is_far(fault: Fault) -> bool:
    """Whether what one rank does may happen to another."""
    return fault.rank is None or fault.watched != fault.rank
