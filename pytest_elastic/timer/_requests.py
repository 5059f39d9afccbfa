"""Timer API: `configure`, `expires`, and the requests that they send.

A request travels on the wall clock, as the clients of torch have it, and carries beside it where and when it
was made (`Origin`): the monotonic deadline, which is what counts, and the thread and process that it is for.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pytest_elastic.clock import SYSTEM_CLOCK, Span, to_seconds
from pytest_elastic.pristine import threading
from pytest_elastic.processes import this_process

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("pytest_elastic.timer")

RELEASE: float = -1
"""The expiration time that takes a timer away; every negative one does."""


class Origin(NamedTuple):
    """Where and when a client made its request.

    Attributes:
        started: the start time of the process, in clock ticks since boot.
        thread: as `threading.get_ident` has it.
        deadline: on the monotonic clock; of no meaning in a release.
    """

    started: int
    thread: int
    deadline: float


@dataclass
class TimerRequest:
    """A request to arm a timer, or to release it if `expiration_time` is negative; unhashable.

    >>> TimerRequest(worker_id=4711, scope_id="exchange", expiration_time=-1).scope_id
    'exchange'

    Attributes:
        worker_id: the process id of the rank, for the servers of this package.
        scope_id: which timer of the rank.
        expiration_time: seconds on the scale of `time.time()`.
        origin: set by this package's clients; `None` in a request that was made by hand, which counts from
            the moment when it is received, and is for the process that has the pid then.
    """

    worker_id: Any
    scope_id: str
    expiration_time: float
    origin: Origin | None = field(default=None, compare=False, repr=False, kw_only=True)


class TimerClient(ABC):
    """Base class of timer clients: `expires` sends a rank's requests through one."""

    @abstractmethod
    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Arm the calling thread's timer for the scope, in place of one that is armed.

        Args:
            scope_id: any text.
            expiration_time: seconds on the scale of `time.time()`.
        """

    @abstractmethod
    def release(self, scope_id: str) -> None:
        """Disarm the calling thread's timer for the scope; nothing happens if there is none."""


class RequestQueue(ABC):
    """Base class of request queues, the source of a `TimerServer`'s requests.

    A queue that has a `fileno()`, readable while requests are there, wakes the server by it.  Others are
    asked several times a second.
    """

    @abstractmethod
    def size(self) -> int:
        """How many requests were sent and not yet got."""

    @abstractmethod
    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Up to `size` requests in order, at the latest after `timeout` seconds; may be fewer or none."""


class Scope(str):
    """A scope that knows which line of code armed it, and for how long.

    Attributes:
        file: path as the compiler had it.
        line: 1-based.
        span: seconds that were asked for; between the clock's reading and the request some pass.
    """

    file = ""
    line = 0
    span = 0.0


def scope_at(file: str, line: int, span: float, name: str | None = None) -> Scope:
    """The scope of that line; its name is `file#line` if it has no other."""
    scope = Scope(f"{file}#{line}" if name is None else name)
    scope.file, scope.line, scope.span = file, line, span
    return scope


_client: TimerClient | None = None


def configure(client: TimerClient | None) -> None:
    """Set the timer client of this process, which forks inherit; `None` removes it.

    >>> configure(None)

    Raises:
        TypeError: it has no `acquire` and `release`.
    """
    global _client
    if client is not None and not (hasattr(client, "acquire") and hasattr(client, "release")):
        raise TypeError(f"a timer client has acquire and release, {type(client).__name__} has not")
    _client = client


def configured() -> TimerClient | None:
    """The client of this process, if there is one."""
    return _client


class Countdown:
    """The value of `expires`: a context manager, and a decorator that arms a timer at each call."""

    def __init__(
        self, after: float, where: tuple[str, int], name: str | None, client: TimerClient | None
    ) -> None:
        self._after, self._where, self._name, self._client = after, where, name, client
        self._scope = scope_at(*where, after, name)
        self._armed: list[TimerClient] = []

    def __enter__(self) -> None:
        client = _client if self._client is None else self._client
        if client is None:
            raise RuntimeError("Configure timer client before using countdown timers.")
        client.acquire(self._scope, SYSTEM_CLOCK.time() + self._after)
        self._armed.append(client)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client = self._armed.pop()
        try:
            client.release(self._scope)
        except Exception as failure:
            log.warning('timer "%s" could not be released: %s', self._scope, repr(failure))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if any(runs_later(function) for runs_later in _RUN_LATER):
            raise TypeError("the body of a coroutine or a generator runs after its call: time a block of it")
        code = getattr(inspect.unwrap(function), "__code__", None)
        # A callable object has no line of its own: the decorator's has to do.
        where = self._where if code is None else (code.co_filename, code.co_firstlineno)

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with Countdown(self._after, where, self._name, self._client):
                return function(*args, **kwargs)

        return timed


_RUN_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def expires(after: Span, scope: str | None = None, client: TimerClient | None = None) -> Countdown:
    """A time limit for a block of code, or for each call of a decorated function.

    A rank that is still in the block then is killed by the timer server.  Each line has a timer of its own in
    each thread; entered again, it replaces its deadline, and the first exit disarms it.  A body's exception
    passes unchanged, and a release that fails is logged.  Blocks as long as the client does.  Thread-safe.

        with expires(after=5):
            exchange()

        @expires(after=0.5, scope="step")
        def step(): ...

    Args:
        after: seconds; 0 and less are expired at once, `math.inf` never is.
        scope: name of the timer; `file#line` of this call, or of the decorated definition, if there is none.
        client: used in place of the one that was configured.

    Raises:
        TypeError: `after` is no span.
        ValueError: `after` is NaN.
        RuntimeError: (on entering) there is no client.
    """
    seconds = max(0.0, to_seconds(after, "after"))
    caller = sys._getframe(1)
    return Countdown(seconds, (caller.f_code.co_filename, caller.f_lineno), scope, client)


def to_monotonic(wall: float) -> float:
    """The point of the monotonic clock that shows when the wall clock, unless it is set, will show `wall`.

    Two clocks cannot be read at one moment, and a thread may lose the processor in between: of three pairs
    the one that was read in the shortest time counts.
    """
    readings = []
    for _ in range(3):
        before, now = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.time()
        readings.append((SYSTEM_CLOCK.monotonic() - before, before, now))
    _, monotonic, now = min(readings)
    return monotonic + (wall - now)


def made_here(expiration_time: float) -> Origin:
    """The origin of a request that the calling thread makes now."""
    return Origin(this_process().started, threading.get_ident(), to_monotonic(expiration_time))
