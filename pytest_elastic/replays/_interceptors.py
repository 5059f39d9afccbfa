"""Interceptors of a group's store requests: gates in a row, for faults, jitter and forced orders.

An interceptor decides about one thing and passes the request on to the next gate; the last is an `OpenGate`.
Everything happens in the thread that serves the store, before the request is applied.

*Faults.*  A killed or stopped rank's request is kept, so that it has no effect: for ever, or until the rank
goes on.  Processes are signalled by their guardian (by pidfd), never by number from here.  A rank ends with
an exit code of its own by the answer to its request, or to the wait in which it is blocked; one that is busy
ends at its next request.

*Jitter.*  Each request is late by a time that depends on the seed, the rank and the request's number only.
Most are not late at all; the others by a span that doubles from 0.1 ms to 6.4 ms, so that both near misses
and long overtakings happen.  In half of the runs one rank starves: all its requests are late.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from itertools import count

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.faults import Fault, FaultPlan, Watch, lost_answer
from pytest_elastic.pristine import signal
from pytest_elastic.store import Ending, Gate, Keeper, Request

_LOOK = 0.01  # Seconds between looks at the ranks' output, while a fault waits for a line.
_LATE = 0.4  # Share of requests that jitter delays.
_SHORTEST = 0.0001
_DOUBLINGS = 6
_STARVED = 0.002

SendSignal = Callable[[int, int], None]
NewLines = Callable[[], Iterable[tuple[int, str]]]


class Interceptor:
    """A gate that leaves everything to the next one, with timers: `after` calls something later."""

    def __init__(self, following: Gate) -> None:
        self.following = following
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def keeper(self) -> Keeper:
        """The server."""
        return self.following.keeper

    @keeper.setter
    def keeper(self, keeper: Keeper) -> None:
        self.following.keeper = keeper

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in the serving thread, `seconds` from now."""
        heapq.heappush(self._timers, (SYSTEM_CLOCK.monotonic() + seconds, next(self._numbers), act))

    def asked(self, request: Request) -> None:
        self.following.asked(request)

    def applied(self, request: Request, blocked: bool) -> None:
        self.following.applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        self.following.ended(request, how)

    def left(self, label: Hashable) -> None:
        self.following.left(label)

    def rested(self, label: Hashable) -> None:
        self.following.rested(label)

    def due(self) -> float:
        return min(self._timers[0][0] if self._timers else math.inf, self.following.due())

    def tick(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self.following.due() <= now:
            self.following.tick(now)


class FaultInterceptor(Interceptor):
    """Injects the faults of one plan.

    Attributes:
        watch: the faults that have fired, and those that have not.
    """

    def __init__(self, plan: FaultPlan, send: SendSignal, lines: NewLines, following: Gate) -> None:
        """Watch for the triggers of a plan.

        Args:
            plan: the faults.
            send: sends a rank a signal: (rank, number).
            lines: returns the lines that ranks wrote since the last call: (rank, line).
            following: the next gate.
        """
        super().__init__(following)
        self.watch = Watch(plan)
        self._send, self._lines = send, lines
        self._killed: set[int] = set()
        self._codes: dict[int, int] = {}
        self._stopped: dict[int, list[Request]] = {}
        self._blocked: dict[int, dict[Request, None]] = defaultdict(dict)
        if self._waits_for_lines():
            self.after(0, self._look_again)

    def asked(self, request: Request) -> None:
        rank = request.label
        if not isinstance(rank, int):
            super().asked(request)
            return
        if self._waits_for_lines():
            self._look()
        due = self.watch.called(rank, request.name, request.keys)
        for fault in due:
            self._inject(fault, request)
        seconds = max((f.seconds or 0.0 for f in due if f.kind in ("delay", "late_join")), default=0.0)
        if any(fault.kind == "server_gone" for fault in due):
            self.keeper.hang_up()
        elif seconds:
            self.after(seconds, partial(self._go_on, request))
        else:
            self._go_on(request)

    def applied(self, request: Request, blocked: bool) -> None:
        if blocked and isinstance(request.label, int):
            self._blocked[request.label][request] = None
        super().applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        if isinstance(request.label, int):
            self._blocked[request.label].pop(request, None)
        super().ended(request, how)

    def _go_on(self, request: Request) -> None:
        """Pass a request on, unless its rank is stopped, killed or to exit."""
        rank = request.label
        assert isinstance(rank, int)
        if rank in self._stopped:
            self._stopped[rank].append(request)
        elif rank in self._codes:
            self.keeper.end_client(request, self._codes[rank])
        elif rank not in self._killed:
            super().asked(request)

    def _inject(self, fault: Fault, request: Request | None = None) -> None:
        """Let a fault happen, as far as it does not delay or refuse the request itself."""
        rank = -1 if fault.rank is None else fault.rank
        if fault.kind == "kill":
            self._killed.add(rank)
            self._send(rank, signal.SIGKILL)
        elif fault.kind == "exit":
            self._codes[rank] = fault.code or 0
            for blocked in list(self._blocked[rank]):
                self.keeper.end_client(blocked, self._codes[rank])
        elif fault.kind == "stop":
            self._stopped.setdefault(rank, [])
            self._send(rank, signal.SIGSTOP)
            if fault.seconds is not None:
                self.after(fault.seconds, partial(self._resume, rank))
        elif fault.kind == "resume":
            self._resume(rank)
        elif fault.kind == "drop" and request is not None:
            operation = (request.name, *request.arguments)
            request.instead = lambda state: lost_answer(state, operation)
        elif fault.kind == "server_gone" and request is None:
            self.keeper.hang_up()

    def _resume(self, rank: int) -> None:
        self._send(rank, signal.SIGCONT)
        for request in self._stopped.pop(rank, ()):
            self._go_on(request)

    def _waits_for_lines(self) -> bool:
        return any(fault.trigger.where == "line" for fault in self.watch.pending)

    def _look(self) -> None:
        """Look for new lines in the ranks' output."""
        for rank, line in self._lines():
            for fault in self.watch.wrote(rank, line):
                self._inject(fault)

    def _look_again(self) -> None:
        self._look()
        if self._waits_for_lines():
            self.after(_LOOK, self._look_again)


class JitterInterceptor(Interceptor):
    """Delays requests of `nprocs` ranks by what a seed says, so that they come in other orders."""

    def __init__(self, seed: int | str, nprocs: int, following: Gate) -> None:
        super().__init__(following)
        self._seed = seed
        dice = random.Random(f"{seed}")
        self._starved = dice.randrange(nprocs) if dice.random() < 0.5 else None
        self._counts: Counter[tuple[Hashable, int]] = Counter()

    def asked(self, request: Request) -> None:
        party = request.label, request.client
        self._counts[party] += 1
        dice = random.Random(f"{self._seed}/{party}/{self._counts[party]}")
        seconds = _STARVED if request.label == self._starved else 0.0
        if dice.random() < _LATE:
            seconds += _SHORTEST * 2.0 ** dice.randint(0, _DOUBLINGS)
        if seconds:
            self.after(seconds, partial(super().asked, request))
        else:
            super().asked(request)
