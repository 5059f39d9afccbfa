"""The watch over a plan: which faults are due now; and the answer of a write that a fault loses.

Simulated and real ranks feed the same `Watch` with their operations and lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pytest_elastic.errors import UnfiredFaultError
from pytest_elastic.faults._plan import Fault, FaultPlan
from pytest_elastic.store import OPERATIONS, Call, Effect, StoreState, Waiter, with_effect

WRITES = frozenset(name for name, operation in OPERATIONS.items() if operation.writes) - with_effect(
    Effect.ANNOUNCE, Effect.EXCHANGE
)
"""Operations that a fault may lose; who comes to a meeting writes nothing that could be lost alone."""

_SHOWN = 8


@dataclass(slots=True)
class _Seen:
    """The history of one rank, for the story of a fault that never fired."""

    operations: int = 0
    last: str = "none"
    keys: dict[str, None] = field(default_factory=dict)
    barriers: dict[str, None] = field(default_factory=dict)
    collectives: dict[str, None] = field(default_factory=dict)
    lines: int = 0

    def take(self, name: str, keys: Sequence[str], prefix: str, meeting: str) -> None:
        self.operations += 1
        self.last = f"{name}({named(keys)})"
        self.keys.update(dict.fromkeys(keys))
        if prefix:
            self.barriers[prefix] = None
        if meeting:
            self.collectives[meeting] = None


@dataclass(slots=True)
class _Armed:
    """A fault that has not fired, and how often its trigger's pattern has matched."""

    fault: Fault
    matches: int = 0

    def counts(self) -> bool:
        """Count a match of the trigger; whether it is the n-th."""
        self.matches += 1
        return self.matches == self.fault.trigger.nth


class Watch:
    """The matcher of a plan's triggers: fed with operations and lines, it says which faults are due.

    Feed it each operation of each rank before it is applied, and each line that a rank writes.  It is not
    thread-safe, has no clock, and costs one test where no fault is left.

    Attributes:
        fired: the faults that have fired, in their order.

    >>> from pytest_elastic.faults import kill
    >>> watch = Watch(kill(rank=1, op=2))
    >>> watch.called(1, "set", ["a"]), watch.called(1, "get", ["a"])
    ([], [kill(rank=1, op=2)])
    """

    __slots__ = ("_armed", "_operations", "_seen", "_stopped", "fired")

    def __init__(self, plan: FaultPlan) -> None:
        self.fired: list[Fault] = []
        self._armed = [_Armed(fault) for fault in plan.faults]
        self._seen: dict[int, _Seen] = {}
        self._stopped: set[int | None] = set()
        self._operations = 0

    @property
    def pending(self) -> tuple[Fault, ...]:
        """The faults that have not fired, in the plan's order."""
        return tuple(armed.fault for armed in self._armed)

    def called(self, rank: int, name: str, keys: Sequence[str]) -> Sequence[Fault]:
        """The faults that are due at an operation of a rank, in the plan's order.

        Args:
            rank: whose operation.
            name: the operation's.
            keys: those that it concerns, in the order asked.
        """
        if not self._armed:
            return ()
        seen = self._seen.setdefault(rank, _Seen())
        places = barrier_of(name, keys), meeting_of(name, keys)
        seen.take(name, keys, *places)
        self._operations += 1
        return self._fire(
            [one for one in self._of(rank) if self._is_due(one, seen.operations, name, keys, *places)]
        )

    def wrote(self, rank: int, line: str) -> Sequence[Fault]:
        """The faults that are due at a line of a rank's output."""
        if not self._armed:
            return ()
        self._seen.setdefault(rank, _Seen()).lines += 1
        lines = [one for one in self._of(rank) if one.fault.trigger.where == "line"]
        return self._fire([one for one in lines if one.fault.trigger.text in line and one.counts()])

    def check(self) -> None:
        """Check that every fault has fired.

        Raises:
            UnfiredFaultError: some have not; with what the ranks did instead.
        """
        if self._armed:
            raise UnfiredFaultError([(repr(one.fault), self._story(one)) for one in self._armed])

    def _of(self, rank: int) -> list[_Armed]:
        """The faults that a rank may trigger; only a stopped rank can be resumed."""
        return [
            one
            for one in self._armed
            if one.fault.watched in (rank, None)
            and (one.fault.kind != "resume" or one.fault.rank in self._stopped)
        ]

    def _is_due(
        self, one: _Armed, operation: int, name: str, keys: Sequence[str], prefix: str, meeting: str
    ) -> bool:
        trigger = one.fault.trigger
        if one.fault.kind == "drop" and name not in WRITES:
            return False
        if trigger.where == "op":
            return trigger.nth == (self._operations if one.fault.watched is None else operation)
        if trigger.where == "key":
            return any(fnmatchcase(key, trigger.text) for key in keys) and one.counts()
        if trigger.where == "collective":
            return bool(meeting) and is_meeting(meeting, trigger.text) and one.counts()
        return trigger.where == "barrier" and is_barrier(prefix, trigger.text) and one.counts()

    def _fire(self, due: list[_Armed]) -> Sequence[Fault]:
        if due:
            self._armed = [one for one in self._armed if not any(one is other for other in due)]
        faults = [one.fault for one in due]
        self.fired += faults
        self._stopped.update(fault.rank for fault in faults if fault.kind == "stop")
        return faults

    def _story(self, one: _Armed) -> str:
        """The history of a fault's trigger, in words."""
        rank, trigger = one.fault.watched, one.fault.trigger
        whose = [seen for owner, seen in self._seen.items() if rank in (owner, None)]
        operations = sum(seen.operations for seen in whose)
        who = "the ranks" if rank is None else f"rank {rank}"
        if one.fault.kind == "drop" and trigger.where == "op" and operations >= trigger.nth:
            return f"operation {trigger.nth} of {who} writes nothing that could be dropped"
        text = f"{who} did {operations} operations"
        if trigger.where == "op":
            return text + (f", the last one {whose[-1].last}" if whose else "")
        matches = f"{one.matches} of {trigger.nth} matches"
        if trigger.where == "line":
            return f"{text} and wrote {sum(seen.lines for seen in whose)} lines, {matches}"
        met = [getattr(seen, f"{trigger.where}s") for seen in whose]
        names = list(dict.fromkeys(name for names in met for name in names))
        return f"{text}, {matches} among the {trigger.where}s {named(names) or '(none)'}"


def barrier_of(name: str, keys: Sequence[str]) -> str:
    """The prefix of the barrier at which this operation arrives; `""` if it does not."""
    return OPERATIONS[name].barrier(keys) if name in OPERATIONS else ""


def meeting_of(name: str, keys: Sequence[str]) -> str:
    """The collective that this operation joins, as `f"{group}#{number}"`; `""` if it does not."""
    return OPERATIONS[name].meeting(keys) if name in OPERATIONS else ""


def is_meeting(meeting: str, name: str) -> bool:
    """Whether a collective is the one meant, by name or pattern; names of groups have brackets."""
    return meeting == name or fnmatchcase(meeting, name)


def is_barrier(prefix: str, name: str) -> bool:
    """Whether a barrier's prefix is the one meant: it matches, or is that of `world.barrier(name)`."""
    return bool(prefix) and (fnmatchcase(prefix, name) or fnmatchcase(prefix, f"world/barrier/{name}/*"))


def named(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(map(repr, shown[:_SHOWN])) + more


def lost_answer(state: StoreState, operation: Call) -> object:
    """The answer of a write that is lost: it has no effect on the state, and its caller does not know.

    Args:
        state: is not changed.
        operation: name and arguments, one of `WRITES`.

    Raises:
        Exception: what the operation would raise.
    """
    name, *arguments = operation
    if not OPERATIONS[name].answer:
        return None
    other = StoreState(state.wake)
    key = str(arguments[0])
    value = state.get(key)
    if isinstance(value, Waiter):
        state.abandon(value)
    else:
        other.set(key, value)
    return other.apply(operation)
