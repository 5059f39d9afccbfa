"""What happened, as frozen records: the only language between what runs and what reports.

An event has the moment (`at`, seconds of the monotonic clock, which all processes share) and the rank it is
about (`None`: the launcher, or nobody).  A `Sink` takes events; it must be quick and must not raise.  `dump`
and `load` write and read them as JSON, one line each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from pytest_elastic.pristine import json


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all: when, and which rank."""

    at: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class RankStarted(Event):
    """A rank is ready to work."""

    pid: int


@dataclass(frozen=True, slots=True)
class RankExited(Event):
    """A rank's process has ended.

    Attributes:
        exitcode: negative for a signal.
        text: why it was ended, if that was our doing: `timer "exchange" (test_x.py:41) expired after 5.0 s`.
    """

    exitcode: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class PhaseBegan(Event):
    """A rank was told to run a phase of its test (`"setup"`, `"call"`, `"teardown"`) or its function."""

    phase: str


@dataclass(frozen=True, slots=True)
class PhaseEnded(Event):
    """A rank has reported and waits for orders; until then it writes nothing more to the store.

    Attributes:
        outcome: `"passed"`, `"failed"`, `"skipped"`, `"exit"`.
        text: the error's message, `""` if there was none.
        place: `file:line` of it.
    """

    phase: str
    outcome: str
    text: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class RankStood(Event):
    """What the kernel says of a rank that is not in the store.

    Attributes:
        state: `"stopped"`, `"spinning"`, `"blocked"`, or `"unreachable"`: its machine does not answer.
        channel: the kernel's wait channel, `""` where it is not known.
        peer: for a pipe: who holds its other end, in words; of a socket that accepts: `port 4711`; else `""`.
    """

    state: str
    channel: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class StoreCalled(Event):
    """The server took up a request: these events come in the store's one order.

    Attributes:
        client: the connection's number; a rank has one for each thread that uses the store.  It is negative
            for a call in the middle of another one of its thread (by a signal's handler, or a finalizer).
        name: the operation.
        keys: those that it concerns, in the order asked.
        changed: whether it changed them, if it is one that may: not so where it raised, where
            `compare_set` found another value, where `delete_key` found none.
    """

    client: int
    name: str
    keys: tuple[str, ...]
    changed: bool = True


@dataclass(frozen=True, slots=True)
class ClientLeft(Event):
    """A connection that was not blocked has ended; its thread uses the store no more."""

    client: int


@dataclass(frozen=True, slots=True)
class BarrierJoined(Event):
    """A rank was counted at a barrier of ours.

    Attributes:
        prefix: the barrier's key prefix.
        world_size: how many calls release it; 0 where the caller did not say.
        count: how many have come, this one included.
    """

    client: int
    prefix: str
    world_size: int
    count: int


@dataclass(frozen=True, slots=True)
class CollectiveJoined(Event):
    """A rank called a collective operation of a process group, or one end of a message.

    The call and its peers' are a *meeting*, named `f"{group}#{number}"`; the wait for member `i` has the
    key `f"{group}#{number}/{i}"`.

    Attributes:
        group: its name, such as `"world"`; for messages the pair, such as `"world:0>1,7"` with the tag 7.
        number: which call of the group it is, from 0; for messages, of the pair.
        members: the ranks of the group, in its order, -1 where that is not known yet; of a message the sender
            and the receiver.
        index: the place of this rank among `members`.
        operation: such as `"all_reduce"`, `"send"`, `"new_group"`.
        text: the call in words: `"all_reduce(float32[4], SUM)"`.
        signature: what must be alike in all calls of a meeting: operation, root, reduction, dtypes, sizes,
            separated by tabs.
        root: the rank that sends to all, or gets all; `None` where there is none.
        reduction: such as `"SUM"`, `""` where there is none.
        dtype: of the tensors, `""` without tensors.
        shape: of the tensors, as `"[4]"` or `"[4], [2, 3]"`.
        size: bytes of the tensors.
        place: `file:line` of the user's code.
        via: the function that the user called there, such as `"all_gather_object"` or `"backward"`.
        waits: whether the caller waits for its peers now; an asynchronous call does so later.
        sends, expects: numbers of elements for and from each member, where sizes must fit in pairs.
    """

    client: int
    group: str
    number: int
    members: tuple[int, ...]
    index: int
    operation: str
    text: str
    signature: str
    root: int | None = None
    reduction: str = ""
    dtype: str = ""
    shape: str = ""
    size: int = 0
    place: str = ""
    via: str = ""
    waits: bool = True
    sends: tuple[int, ...] = ()
    expects: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitBegan(Event):
    """A request is blocked.

    Attributes:
        name: the operation.
        keys: what it asked for; `missing` is the part that is not there.
        timeout: seconds until it fails by itself.
        may_timeout: whether the caller counts on that: such a wait is no hang.
        writers: the rank (as in `rank`) that alone may write each of `keys`, in their order; `()` where
            the caller did not say.
        alarm: seconds until the process's interval timer sends a signal, whose handler may end the wait;
            0 where none is set.
    """

    client: int
    name: str
    keys: tuple[str, ...]
    missing: tuple[str, ...]
    timeout: float
    may_timeout: bool = False
    writers: tuple[int, ...] = ()
    alarm: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitEnded(Event):
    """A blocked request was answered.

    Attributes:
        how: `"done"`; `"timed out"`, by the machine's clock; `"jumped"`, by ours, since nothing could end
            it any more; `"gone"`, with its client.
    """

    client: int
    how: str


@dataclass(frozen=True, slots=True)
class RankInspected(Event):
    """A rank that waits has said what else in its process may go on; see `store/_inspection.py`.

    Attributes:
        alarm: seconds until a signal of its interval timer, 0 where none is set.
        cpu_alarm: whether a timer runs that counts processor time.
        handlers: whether a signal's handler may end the wait, or write.
        writers: the kernel's numbers of the threads whose code can reach the store, or is in a call of it.
        strangers: those of the other Python threads that are not known to be harmless.
    """

    alarm: float
    cpu_alarm: bool
    handlers: bool
    writers: tuple[int, ...]
    strangers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LineWritten(Event):
    """A rank wrote a line to `"stdout"` or `"stderr"`."""

    stream: str
    text: str


Sink = Callable[[Event], None]


def is_failure(event: PhaseEnded | RankExited) -> bool:
    """Whether a rank failed: in a test's phase, or by its exit code."""
    if isinstance(event, PhaseEnded):
        return event.outcome in ("failed", "exit")
    return event.exitcode != 0


KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RankStarted,
        RankExited,
        PhaseBegan,
        PhaseEnded,
        RankStood,
        StoreCalled,
        ClientLeft,
        BarrierJoined,
        CollectiveJoined,
        WaitBegan,
        WaitEnded,
        RankInspected,
        LineWritten,
    )
}


def _quicken(kind: type[Event]) -> None:
    """Give a kind a constructor that fills the slots directly.

    A server makes an event or two for each request.  The constructor that `dataclass` gives a frozen class
    goes through `object.__setattr__`, and takes almost twice as long.
    """
    known = {f"_set_{one.name}": getattr(kind, one.name).__set__ for one in fields(kind)}
    known |= {f"_default_{one.name}": one.default for one in fields(kind)}
    names = [
        one.name if one.default is MISSING else f"{one.name}=_default_{one.name}" for one in fields(kind)
    ]
    body = "; ".join(f"_set_{one.name}(self, {one.name})" for one in fields(kind))
    exec(f"def __init__(self, {', '.join(names)}): {body}", known)
    kind.__init__ = known["__init__"]  # type: ignore[method-assign]


for _kind in KINDS.values():
    _quicken(_kind)


def dump(event: Event) -> str:
    """The event as one line of JSON, without its end of line."""
    values = {one.name: getattr(event, one.name) for one in fields(event)}
    return json.dumps({"event": type(event).__name__, **values}, separators=(",", ":"))


def load(line: str) -> Event:
    """The event that `dump` wrote.

    Raises:
        ValueError: the line is no event; the text says what is wrong with it.
    """
    try:
        written: dict[str, Any] = json.loads(line)
        kind = KINDS[written.pop("event")]
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in written.items()
        }
        return kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no event: {line[:80]!r} ({type(error).__name__}: {error})") from None
