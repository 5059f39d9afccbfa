"""Gates in a row, driven by hand: no server, no process, no clock but the machine's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import Event, StoreCalled, WaitBegan, WaitEnded
from pytest_elastic.replays import Recording
from pytest_elastic.replays._interceptors import Interceptor
from pytest_elastic.store import OPERATIONS, Ending, Gate, OpenGate, Request, StoreState, Waiter


class _Connection:
    def __init__(self, label: object) -> None:
        self.label = label


class Rig:
    """A state behind a gate; what becomes of each request is noted.

    Attributes:
        notes: (who, what) in order: "ok", an error's text, "exit N", "kept" is nothing.
        answers: by label, what its requests returned.
        hung_up: whether the server is gone.
    """

    def __init__(self) -> None:
        self.state = StoreState()
        self.notes: list[tuple[object, str]] = []
        self.answers: dict[object, list[object]] = {}
        self.hung_up = False
        self.gate: Gate = OpenGate()
        self._blocked: dict[Waiter, Request] = {}

    def use(self, gate: Gate) -> Any:
        self.gate = gate
        gate.keeper = self
        return gate

    def ask(
        self, label: object, name: str, *arguments: Any, seconds: float = 1.0, client: int = 0
    ) -> Request:
        request = Request(_Connection(label), OPERATIONS[name], list(arguments))
        request.client, request.seconds = client, seconds
        self.gate.asked(request)
        return request

    def of(self, label: object) -> list[str]:
        return [what for who, what in self.notes if who == label]

    # The keeper.

    def let(self, request: Request) -> None:
        act = request.instead
        answer = act(self.state) if act else getattr(self.state, request.name)(*request.arguments)
        request.blocked = isinstance(answer, Waiter)
        if isinstance(answer, Waiter):
            self._blocked[answer] = request
            request.missing = self.state.missing(answer)
        self.gate.applied(request, request.blocked)
        if not request.blocked:
            self.notes.append((request.label, "ok"))
            self.answers.setdefault(request.label, []).append(answer)
        while self.state.woken:
            waiter = self.state.woken.pop(0)
            woken = self._blocked.pop(waiter)
            self.answers.setdefault(woken.label, []).append(waiter.result)
            self.gate.ended(woken, "done")
            self.notes.append((woken.label, "ok"))

    def fail(self, request: Request, error: Exception) -> None:
        self._end(request, "gone", str(error))

    def end_client(self, request: Request, code: int) -> None:
        self._end(request, "gone", f"exit {code}")

    def expire(self, request: Request) -> None:
        self._end(request, "timed out", "timed out")

    def time(self, request: Request) -> None:
        request.timeless = False

    def hang_up(self) -> None:
        self.hung_up = True

    def _end(self, request: Request, how: Any, note: str) -> None:
        waiter = next((waiter for waiter, other in self._blocked.items() if other is request), None)
        if waiter is not None:
            del self._blocked[waiter]
            self.state.abandon(waiter)
            self.gate.ended(request, how)
        self.notes.append((request.label, note))
        self.answers.setdefault(request.label, []).append(note)


@pytest.fixture
def rig() -> Rig:
    """A state behind a gate."""
    return Rig()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands: call it to move it."""
    from pytest_elastic.clock import SystemClock

    now = [100.0]
    monkeypatch.setattr(SystemClock, "monotonic", lambda self: now[0])

    def move(seconds: float) -> float:
        now[0] += seconds
        return now[0]

    return move


class Recorder(Interceptor):
    """Makes the events that a server would, of everything that passes; the last `most` are kept."""

    def __init__(self, following: Gate, most: int = 1000) -> None:
        super().__init__(following)
        self._events: deque[Event] = deque(maxlen=most)
        self._connections: dict[tuple[object, int], int] = {}
        self._count = 0

    def applied(self, request: Request, blocked: bool) -> None:
        self._note(StoreCalled, request, request.name, tuple(request.keys))
        if blocked:
            self._note(
                WaitBegan, request, request.name, tuple(request.keys), request.missing, request.seconds
            )
        super().applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        if request.blocked:
            self._note(WaitEnded, request, how)
        super().ended(request, how)

    def _note(self, kind: type[Event], request: Request, *more: Any) -> None:
        self._count += 1
        rank = request.label if isinstance(request.label, int) else None
        connection = self._connections.setdefault((request.label, request.client), len(self._connections))
        self._events.append(kind(SYSTEM_CLOCK.monotonic(), rank, connection, *more))

    def recording(self, header: dict[str, Any]) -> Recording:
        """What was noted so far; from any thread, once the server is closed or its clients are idle."""
        events = tuple(self._events)
        return Recording(events, header, self._count - len(events))
