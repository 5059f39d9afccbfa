"""What a served store tells those who look on: each request, each wait, as events in the store's one order.

A connection whose label is a number is a rank's; all others are told of as nobody's (`rank=None`).  The
event of a request follows what it did and comes before those of the waits that it ended.

*Theory of operation.*  Making an event costs more than serving some requests, and nobody needs it before so
many requests are blocked that something may be wrong.  So a request is noted as it came, a frame of bytes
that is there anyhow, and is told when that many are blocked (`patience`), when the service has had nothing
to do for a moment, when somebody asks, or when there is very much to tell.  No values are kept but numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    Event,
    RankInspected,
    Sink,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.store._connection import Connection
from pytest_elastic.store._state import StoreState, Waiter
from pytest_elastic.store._wire import REQUESTS, Layout

_NUM_MEMBERS, _LAST_MEMBER = "/num_members", "/last_member"
_JOINING = frozenset({"add", "arrive", "barrier"})
_FAILED = object()
_PLAIN = frozenset({int, bool, type(None), object})
_LONG = 512  # Bytes of a frame with values of which only the keys are kept.
_MOST = 5 * 65_536

_LAYOUTS = {layout.code: layout for layout in REQUESTS.values()}
_BARRIER, _COMPARE_SET = REQUESTS["barrier"].code, REQUESTS["compare_set"].code
_WITH_VALUES = {REQUESTS[name].code for name in ("set", "compare_set", "append", "multi_set", "queue_push")}

Whose = tuple[Any, int]


class Reporter:
    """Makes a service's events and gives them to a sink, in the serving thread.

    Args:
        sink: what it raises, it raises in the middle of the service.
        blocked: the service's requests that are blocked.

    Attributes:
        patience: how many requests may be blocked before all is told at once; 0 tells all as it happens.
        noted: what was not told yet, five values for each thing: its kind, when, whose, and two more.  They
            are not in tuples, and are of no type that the collector of garbage looks into: it would have
            to run often, and to no end.
    """

    failed = _FAILED
    """What `called` takes for the answer of a request that raised."""

    def __init__(self, sink: Sink, state: StoreState, blocked: Collection[Waiter]) -> None:
        self.patience = 0
        self.noted: deque[Any] = deque()
        self._sink, self._state, self._blocked = sink, state, blocked
        self._heard: set[int] = set()

    def tell(self) -> None:
        """Tell what was noted."""
        noted, take = self.noted, self.noted.popleft
        while noted:
            kind, at, whose, what, more = take(), take(), take(), take(), take()
            if kind == _LEAVES and whose[1] not in self._heard:
                continue
            if kind != _ENDS:
                self._heard.add(whose[1])
            for event in _MAKERS[kind](at, whose, what, more):
                self._sink(event)

    def called(self, connection: Connection, frame: bytes, answer: object) -> None:
        """A request was carried out; one that is blocked is told of by `waits`."""
        if type(answer) not in _PLAIN or frame[4] == _BARRIER:
            answer = self._in_short(frame, answer)
        long = len(frame) > _LONG and frame[4] in _WITH_VALUES
        request = (frame[4], _keys(*_unpacked(frame))) if long else frame
        self.noted.extend((_CALLS, _now(), connection.whose, request, answer))
        if len(self._blocked) >= self.patience or len(self.noted) >= _MOST:
            self.tell()

    def waits(self, connection: Connection, frame: bytes, waiter: Waiter) -> None:
        """A request is blocked."""
        # They are registered in the order asked.
        missing = None if len(waiter.pending) == len(waiter.keys) else tuple(waiter.pending)
        self.noted.extend((_BEGINS, _now(), connection.whose, frame, missing))
        if len(self._blocked) >= self.patience or len(self.noted) >= _MOST:
            self.tell()

    def ended(self, connections: Iterable[Connection], how: str) -> None:
        """The waits of these have ended."""
        self._note(_ENDS, tuple([one.whose for one in connections]), how)

    def left(self, connection: Connection) -> None:
        """A connection that did not wait is gone; one that never asked for anything is not spoken of."""
        self._note(_LEAVES, connection.whose)

    def inspected(self, connection: Connection, values: list[Any]) -> None:
        """A client that waits has answered an `INSPECT`."""
        self.tell()
        alarm, cpu_alarm, handlers, writers, strangers = values
        rank = _rank(connection.whose)
        self._sink(RankInspected(_now(), rank, alarm, cpu_alarm, handlers, tuple(writers), tuple(strangers)))

    def _note(self, kind: int, whose: object, how: str = "") -> None:
        # What is noted often is so in its place: the call would cost as much again.
        self.noted.extend((kind, _now(), whose, how, None))
        if len(self._blocked) >= self.patience or len(self.noted) >= _MOST:
            self.tell()

    def _in_short(self, frame: bytes, answer: object) -> object:
        """What is kept of an answer: of a barrier of the store's own how many have come, else no value."""
        if answer is _FAILED or frame[4] not in (_BARRIER, _COMPARE_SET):
            return answer if answer is _FAILED else None
        layout, arguments = _unpacked(frame)
        if layout.code == _BARRIER:
            return int(self._state.peek(f"{arguments[2]}{_NUM_MEMBERS}") or 0)
        return None if answer == arguments[2] else _FAILED


_now = SYSTEM_CLOCK.monotonic


def _unpacked(frame: bytes) -> tuple[Layout, list[Any]]:
    layout = _LAYOUTS[frame[4]]
    return layout, layout.unpack(frame)


def _keys(layout: Layout, arguments: list[Any]) -> tuple[str, ...]:
    """Those that a request concerns, in the order asked."""
    keys = arguments[2 if layout.blocks else 0 : 3 if layout.blocks else 1]
    return tuple(keys[0]) if keys and type(keys[0]) is list else tuple(keys)


def _rank(whose: Whose) -> int | None:
    return whose[0] if type(whose[0]) is int else None


def _calls(at: float, whose: Whose, request: Any, answer: Any) -> Iterator[Event]:
    rank, number = _rank(whose), whose[1]
    if type(request) is not bytes:
        code, keys = request
        yield StoreCalled(at, rank, number, _LAYOUTS[code].name, keys, answer is not _FAILED)
        return
    layout, arguments = _unpacked(request)
    name, keys = layout.name, _keys(layout, arguments)
    changed = answer is not _FAILED and (name != "delete_key" or answer)
    yield StoreCalled(at, rank, number, name, keys, changed)
    if not changed or name not in _JOINING or not (name == "barrier" or keys[0].endswith(_NUM_MEMBERS)):
        return
    # Torch's own barrier adds 1 to such a key too; it says nothing of how many are to come.
    world_size = 0 if name == "add" else arguments[-1]
    yield BarrierJoined(at, rank, number, keys[0].removesuffix(_NUM_MEMBERS), world_size, answer)


def _begins(at: float, whose: Whose, frame: bytes, missing: tuple[str, ...] | None) -> Iterator[Event]:
    rank, number = _rank(whose), whose[1]
    layout, arguments = _unpacked(frame)
    name, timeout, alarm, keys = layout.name, arguments[0], arguments[1], _keys(layout, arguments)
    may_timeout, writers = arguments[3:] if layout.declares else (False, ())
    if name == "barrier":  # Which was told of as such: it had something to do before.
        name, keys = "wait", (f"{keys[0]}{_LAST_MEMBER}",)
    else:
        yield StoreCalled(at, rank, number, name, keys, True)
    writers = tuple(writers) if len(writers) == len(keys) else ()
    yield WaitBegan(at, rank, number, name, keys, missing or keys, timeout, may_timeout, writers, alarm)


def _ends(at: float, whose: tuple[Whose, ...], how: str, _: None) -> Iterator[Event]:
    for one in whose:
        yield WaitEnded(at, _rank(one), one[1], how)


def _leaves(at: float, whose: Whose, *_: object) -> Iterator[Event]:
    yield ClientLeft(at, _rank(whose), whose[1])


_CALLS, _BEGINS, _ENDS, _LEAVES = range(4)
_MAKERS: tuple[Callable[..., Iterator[Event]], ...] = (_calls, _begins, _ends, _leaves)
