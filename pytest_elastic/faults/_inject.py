"""Faults on real ranks: a gate that asks the `Watch` about every request, and does what is due.

*Theory of operation.*  Everything happens in the serving thread, before the request is applied.  A killed or
stopped rank's request is kept, so that it has no effect: for ever, or until the rank goes on.  Processes are
signalled by whoever guards them (by pidfd), never by number from here.  A rank ends with a code of its own
by the answer to its request, or to the wait in which it is blocked; one that is busy ends at its next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

from pytest_elastic.faults._lost import lost_answer
from pytest_elastic.faults._plan import Fault, FaultPlan
from pytest_elastic.faults._stage import Stage
from pytest_elastic.faults._watch import Watch
from pytest_elastic.pristine import signal
from pytest_elastic.store import Ending, Gate, Request

_LOOK = 0.01  # Seconds between looks at the ranks' output, while a fault waits for a line.

SendSignal = Callable[[int, int], None]
NewLines = Callable[[], Iterable[tuple[int, str]]]


class FaultStage(Stage):
    """Injects the faults of one plan.

    Attributes:
        watch: what has fired, and what has not.
    """

    def __init__(self, plan: FaultPlan, send: SendSignal, lines: NewLines, following: Gate) -> None:
        """Make one.

        Args:
            plan: what is to go wrong.
            send: signals a rank: (rank, number).
            lines: what ranks wrote since the last call: (rank, line).
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
            self._do(fault, request)
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
        """Pass a request on, unless its rank is not to go on."""
        rank = request.label
        assert isinstance(rank, int)
        if rank in self._stopped:
            self._stopped[rank].append(request)
        elif rank in self._codes:
            self.keeper.end_client(request, self._codes[rank])
        elif rank not in self._killed:
            super().asked(request)

    def _do(self, fault: Fault, request: Request | None = None) -> None:
        """What is not about the request itself, and `drop`."""
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

    # Lines.

    def _waits_for_lines(self) -> bool:
        return any(fault.trigger.where == "line" for fault in self.watch.pending)

    def _look(self) -> None:
        for rank, line in self._lines():
            for fault in self.watch.wrote(rank, line):
                self._do(fault)

    def _look_again(self) -> None:
        self._look()
        if self._waits_for_lines():
            self.after(_LOOK, self._look_again)
