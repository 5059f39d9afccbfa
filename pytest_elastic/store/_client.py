"""`RemoteStore`, and its connections to the server: one for each thread, made at its first use.

*Re-entrance.*  In the middle of a call the same thread may run a handler of a signal, `__del__` or a
callback of a weak reference, which may use the store, too.  Such calls have a line of their own, over the
one that is busy, until that one's call goes on.  Then it is closed: by this the server knows that the thread
does nothing but wait again.  Nothing tells Python's code that a handler has returned, since `recv` is taken
up again in C.  So whoever needs a line over a busy one lets the `recv` of that one end at once.
"""

from __future__ import annotations

import array
import contextlib
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol

from pytest_elastic.clock import Deadline
from pytest_elastic.errors import DistNetworkError
from pytest_elastic.pristine import os, signal, socket, struct, threading
from pytest_elastic.store._address import connect
from pytest_elastic.store._api import Span
from pytest_elastic.store._arguments import Asked
from pytest_elastic.store._handle import DEFAULT_TIMEOUT, Handle, watch_forks
from pytest_elastic.store._inspection import inspect_process
from pytest_elastic.store._wire import (
    ADOPT,
    GREETING,
    HELD,
    INSPECT,
    INSPECTED,
    NOTES,
    REQUESTS,
    VERSION,
    Frames,
    WireError,
    unpack_answer,
)

GRACE = 5  # Seconds after an operation's own timeout until a silent server is given up.

_CHUNK = 64 * 2**10
_SIZE = struct.Struct(">I")
_GRACE_OPTION = struct.pack("ll", GRACE, 0)
_HERE = __name__.rpartition(".")[0] + "."
_OF_SOCKETS = ("socket", socket.__name__)
_AT_ONCE_OPTION = struct.pack("ll", 0, 1)
_ITIMER_REAL, _getitimer = signal.ITIMER_REAL, signal.getitimer


class _End(socket.socket):
    """A socket that need not be closed by hand: nobody tells a store that its thread has ended."""

    def __del__(self) -> None:
        self.close()


class Line:
    """One connection, for one thread.  Closes itself when it is forgotten, or when anything goes wrong.

    Another thread may `close` it.  While this one is in a system call, its descriptor must not be closed
    (the number could be another file's by then), so it is only shut down, and the owner closes it.

    Attributes:
        open: whether it can be used.
        busy: whether a call is in the middle of it.
    """

    def __init__(self, end: socket.socket, address: str) -> None:
        self._end = _End(end.family, end.type, end.proto, end.detach())
        self._end.settimeout(None)
        # The kernel's own timeouts cost no system call, unlike Python's.
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _GRACE_OPTION)
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _GRACE_OPTION)
        os.set_inheritable(self._end.fileno(), False)
        self._address = address
        self._closing = threading.RLock()  # A signal's handler may close the store.
        self._over: Line | None = None
        self._interrupted = False
        self.open, self.busy = True, False

    def close(self) -> None:
        """Hang up; also for a thread that waits on it."""
        with self._closing:
            self.open = False
            try:
                self._end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            if not self.busy:
                self._end.close()

    def let_go(self) -> None:
        """Close this process's descriptor only."""
        self.open = False
        self._end.close()

    def exchange(self, frame: bytes, seconds: float) -> bytes:
        """Send a request and wait for its answer, `GRACE` longer than `seconds`.

        Raises:
            DistNetworkError: the server is gone, silent, or broke the protocol; the line is closed then.
        """
        self.busy = True
        try:
            self._end.sendall(frame)
            return self._receive(seconds)
        except BaseException as error:
            self.close()  # The answer would be taken for the next request's.
            if _is_ours(error):
                self._fail(_story(error))
            raise
        finally:
            self.busy = False  # First: who comes now uses this line.
            if self._interrupted:
                self._resume()
            if not self.open:
                self.close()

    def over(self, dial: Callable[[], Line]) -> Line:
        """The line for a call in the middle of this one's."""
        self._interrupted = True
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _AT_ONCE_OPTION)
        over = self._over
        if over is None or not over.open:
            over = self._over = dial()
        return over.over(dial) if over.busy else over

    def hand_in(self, end: socket.socket, over: bool) -> None:
        """Send the server a socket to serve, by one system call; there is no answer."""
        try:
            descriptor = array.array("i", [end.fileno()])
            self._end.sendmsg([ADOPT.pack((over,))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
        except OSError as error:
            if not _is_ours(error):
                raise
            self._fail(f"is gone: {error}")

    def _receive(self, seconds: float) -> bytes:
        frames: Frames | None = None
        deadline: Deadline | None = None
        while True:
            try:
                data = self._end.recv(_CHUNK)
            except BlockingIOError as error:
                if not _is_ours(error):
                    raise
                if self._interrupted:
                    self._resume()
                    continue
                deadline = deadline or Deadline.after(seconds)
                if deadline.passed():
                    raise
                continue
            if not data:
                raise ConnectionResetError("it hung up")
            if frames is None:
                if len(data) > 4 and _SIZE.unpack_from(data)[0] == len(data) - 4 and data[4] < NOTES:
                    return data
                frames = Frames()
            answers = frames.feed(data)
            if HELD in answers:  # The server is there, and takes its time.
                answers.remove(HELD)
                seconds, deadline = math.inf, None
            if INSPECT in answers:
                answers = [one for one in answers if one != INSPECT]
                self._end.sendall(INSPECTED.pack(inspect_process()))
            if answers:
                if len(answers) > 1 or frames.held:
                    raise WireError("more than one answer")
                return answers[0]

    def _resume(self) -> None:
        """Close the line over this one: the call that it was for is over, since this code runs.

        More calls may come between any two of these steps; the last look is at whether one did.
        """
        while self._interrupted:
            self._interrupted = False
            with contextlib.suppress(OSError):  # Another thread has closed this one.
                self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _GRACE_OPTION)
            over, self._over = self._over, None
            if over is not None:
                over.close()

    def _fail(self, what: str) -> NoReturn:
        self.close()
        raise DistNetworkError(f"the store's server at {self._address} {what}") from None


def _is_ours(error: BaseException) -> bool:
    """Whether a system call of ours has failed, or bytes were none; not so if a signal's handler raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return isinstance(error, OSError | WireError) and (module in _OF_SOCKETS or module.startswith(_HERE))


def _story(error: BaseException) -> str:
    if isinstance(error, BlockingIOError):
        return f"has been silent for {GRACE} s after the operation's own timeout"
    return f"{'is gone' if isinstance(error, OSError) else 'broke the protocol'}: {error}"


class Dialer(Protocol):
    """Makes new lines to one server; used by one thread at a time, which may be interrupted by itself."""

    def dial(self, over: bool = False) -> Line:
        """A new line that has been greeted; `DistNetworkError` where it cannot be had.

        Args:
            over: the thread has another one, in the middle of which it is.
        """

    def after_fork(self) -> None:
        """In a forked child."""

    def close(self) -> None:
        """No line will be needed any more."""


class AddressDialer:
    """Connects to an address."""

    def __init__(self, address: str, token: str | None) -> None:
        self._address, self._token = address, token or ""

    def dial(self, over: bool = False) -> Line:
        try:
            end = connect(self._address, GRACE)
        except OSError as error:
            if not _is_ours(error):
                raise
            raise DistNetworkError(f"no store's server at {self._address}: {error}") from None
        line = Line(end, self._address)
        try:
            _greet(line, self._token)
        except DistNetworkError:
            line.close()
            raise
        return line

    def after_fork(self) -> None:
        pass

    def close(self) -> None:
        pass


class PairDialer:
    """Makes socket pairs, and hands their other ends in over the first one (the door)."""

    def __init__(self, end: socket.socket) -> None:
        self._door = Line(end, "a socket pair")
        self._forked = False

    def dial(self, over: bool = False) -> Line:
        if self._forked:
            raise DistNetworkError(
                "this process was forked from one that has the store over a socket pair, which they cannot"
                " share: make a RemoteStore from the server's address, or from a new pair"
            )
        ours, theirs = socket.socketpair()
        line = Line(ours, "a socket pair")
        try:
            with theirs:
                self._door.hand_in(theirs, over)
            _greet(line, "")
        except DistNetworkError:
            line.close()
            raise
        return line

    def after_fork(self) -> None:
        self._forked = True
        self._door.let_go()

    def close(self) -> None:
        self._door.close()


def _greet(line: Line, token: str) -> None:
    greeting = GREETING.pack((VERSION, token.encode()))
    unpack_answer(GREETING, line.exchange(greeting, 0.0))


class Lines:
    """One line for each thread of this process."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._lock = threading.RLock()  # A signal's handler may dial, or close the store.
        self._closed = False
        self._all: weakref.WeakSet[Line] = weakref.WeakSet()
        self._local: Any = threading.local()
        watch_forks(self)

    def mine(self) -> Line:
        """The calling thread's line, or one over it where the thread is in the middle of a call."""
        try:
            line: Line = self._local.line
            if line.open:
                return line.over(partial(self._dial, True)) if line.busy else line
        except AttributeError:
            pass
        line = self._local.line = self._dial()
        return line

    def close(self) -> None:
        """Hang up all lines; operations that wait on them raise."""
        with self._lock:
            self._closed = True
            for line in list(self._all):
                line.close()
            self._dialer.close()

    def after_fork(self) -> None:
        """In a forked child: none of the lines is ours."""
        self._lock = threading.RLock()
        for line in list(self._all):
            line.let_go()
        self._all.clear()
        self._local = threading.local()
        self._dialer.after_fork()

    def _dial(self, over: bool = False) -> Line:
        with self._lock:
            self._check_open()
            line = self._dialer.dial(over)
            self._all.add(line)
            if self._closed:
                line.close()
            self._check_open()
            return line

    def _check_open(self) -> None:
        if self._closed:
            raise DistNetworkError("this store has been closed")


class RemoteStore(Handle):
    """A `StoreServer`'s data.  Each thread has its own connection, made at its first use.

    Handlers of signals and finalizers may use it, also in the middle of an operation; they have a connection
    of their own then, until that operation goes on.

    One operation is one round trip, and a write has happened when the call returns.  An operation raises
    `DistNetworkError` when the server goes away, or is silent for 5 s beyond the operation's own timeout.
    After a fork the child makes its own connection if the store was made from an address; from a socket it
    cannot, and its operations are `DistNetworkError`.

    Args:
        address: `StoreServer.address`, or what `StoreServer.pair` gave (owned by the store from then on).
        token: `StoreServer.token`, where the address is a TCP port.
        timeout: of operations that block.
    """

    def __init__(
        self, address: str | socket.socket, token: str | None = None, timeout: Span = DEFAULT_TIMEOUT
    ) -> None:
        super().__init__(timeout)
        if isinstance(address, socket.SocketType):
            self._lines = Lines(PairDialer(address))
        else:
            self._lines = Lines(AddressDialer(address, token))

    def clone(self) -> RemoteStore:
        """A handle on the same connections with its own timeout, equal at first."""
        other = object.__new__(RemoteStore)
        other._lines, other.place = self._lines, self.place
        other.set_timeout(self._timeout)
        return other

    def close(self) -> None:
        """Hang up, for the clones too; later operations are `DistNetworkError`."""
        self._lines.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        answer = self._lines.mine().exchange(REQUESTS[name].pack(arguments), 0.0)
        return unpack_answer(REQUESTS[name], answer)

    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        __tracebackhide__ = True
        layout = REQUESTS[name]
        if layout.declares:
            asked = arguments[0]
            known = (asked.may_timeout, asked.writers) if type(asked) is Asked else (False, ())
            arguments = (asked, *known)
        request = layout.pack((seconds, _getitimer(_ITIMER_REAL)[0], *arguments))
        answer = self._lines.mine().exchange(request, seconds)
        return unpack_answer(layout, answer)
