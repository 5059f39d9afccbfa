"""A debugger in a rank, at the terminal of pytest, by job control.

*Theory of operation.* The standard streams of a rank are files, and its process group is not in the
foreground. When a debugger opens in it, the rank sends one end of a socket pair to the launcher (`Borrow`)
and waits. The launcher, whenever it waits for ranks, sends back the standard streams of pytest, and moves
the rank's process group to the foreground: the rank reads and writes the terminal itself, with line
editing, and Ctrl-C and Ctrl-Z are its own. It gives the terminal back by a byte, or ends. Several ranks
take turns. Where there is no terminal, the rank is told so, and the debugger is an error; likewise once
somebody has quit the debugger of one rank, so that it need not be quit on all others.

A SIGINT that was sent to pytest meanwhile is for the rank.  If pytest is killed, the guardian restores the
terminal.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_elastic.errors import DebuggerError
from pytest_elastic.multiprocessing import Channel, Foreground, wait_for_foreground
from pytest_elastic.pristine import os, select, signal, socket, threading

_GRANTED, _DONE, _QUIT = b"+", b"-", b"q"
_STREAMS = (0, 1, 2)
_PERIOD = 0.1  # Seconds between two looks at a rank that has the terminal.


@dataclass(frozen=True, slots=True)
class Borrow:
    """From the rank: a request for the terminal; the answer goes to the socket that comes along.

    Attributes:
        rank, pid: which.
        post_mortem: it has failed; the first one's failure is shown, and no other's.
        descriptor: of the socket, in the launcher.
    """

    rank: int
    pid: int
    post_mortem: bool = False
    descriptor: int = -1


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal of pytest, free to be used.

    Attributes:
        streams: its descriptors for standard input, output and error.
        write: shows text.
    """

    streams: tuple[int, int, int]
    write: Callable[[str], object]


OpenTerminal = Callable[[], AbstractContextManager[Terminal | None]]
"""Frees the terminal while the context lasts; `None` where there is none."""


class RankTerminal:
    """In a rank: borrows the standard streams of pytest for a debugger."""

    def __init__(self, rank: int, channel: Channel) -> None:
        self._rank, self._channel = rank, channel
        self._loan: socket.socket | None = None
        self._own: list[int] = []

    def borrow(self, post_mortem: bool = False) -> None:
        """Make the standard streams those of pytest; idempotent.

        Blocks until the launcher waits for this rank and no other rank has the terminal.

        Raises:
            DebuggerError: pytest has no terminal, or lends it to this rank no more.
        """
        __tracebackhide__ = True
        if self._loan is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._channel.send(Borrow(self._rank, os.getpid(), post_mortem), (theirs.fileno(),))
            except OSError:  # A rank that has connected by address: no descriptor can travel.
                raise DebuggerError(self._rank) from None
        granted, streams, _, _ = socket.recv_fds(ours, 1, len(_STREAMS))
        if not granted:
            ours.close()
            raise DebuggerError(self._rank)
        self._loan, self._own = ours, [os.dup(number) for number in _STREAMS]
        _replace_streams(streams)

    def give_back(self, answer: bytes = _DONE) -> None:
        """Have the rank's own streams again; idempotent."""
        loan, self._loan = self._loan, None
        if loan is not None:
            _replace_streams(self._own)
            with loan, suppress(OSError):  # The launcher took it away.
                loan.send(answer)

    def quit(self) -> None:
        """Give it back, for all ranks of the group."""
        self.give_back(_QUIT)


def _replace_streams(descriptors: list[int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for number, descriptor in zip(_STREAMS, descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


class Loans:
    """In the launcher: who has the terminal.  One for each group.

    Args:
        open_terminal: frees it.
        inbox: rank -> what it has sent.
        standing_still: while the context lasts, clocks stand still.

    Attributes:
        shown: somebody has seen a rank's failure in its debugger.
    """

    def __init__(
        self,
        open_terminal: OpenTerminal,
        inbox: Mapping[int, deque[Any]],
        standing_still: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._open, self._inbox, self._standing_still = open_terminal, inbox, standing_still
        self._enough = False
        self._lent: list[socket.socket] = []
        self.shown = False

    def wanted(self) -> bool:
        """Whether a rank waits for it."""
        return any(inbox and isinstance(inbox[0], Borrow) for inbox in self._inbox.values())

    def serve(self, interrupt: Callable[[int], object], over: Callable[[int], bool]) -> None:
        """Let ranks that want the terminal have it, in turn.

        Args:
            interrupt: what Ctrl-C does to the rank that has it.
            over: asked several times a second whether to take it away from that rank.
        """
        for borrow in self._asked():
            with self._standing_still():
                self._lend(borrow, partial(interrupt, borrow.rank), partial(over, borrow.rank))

    def close(self) -> None:
        """Nobody gets it any more."""
        for borrow in self._asked():
            os.close(borrow.descriptor)
        for rank in self._lent:
            rank.close()

    def _asked(self) -> Iterator[Borrow]:
        for inbox in self._inbox.values():
            while inbox and isinstance(inbox[0], Borrow):
                yield inbox.popleft()

    def _lend(self, borrow: Borrow, interrupt: Callable[[], object], over: Callable[[], bool]) -> None:
        refused = self._enough or (borrow.post_mortem and self.shown)
        with nullcontext() if refused else self._open() as terminal:
            rank = socket.socket(fileno=borrow.descriptor)
            if terminal is None or not wait_for_foreground(terminal.streams[0]):
                rank.close()
                return
            # Kept open: a rank whose time is over shall be seen in its debugger, and not on its way out.
            self._lent.append(rank)
            what = "has failed" if borrow.post_mortem else "is in a debugger"
            terminal.write(f"\nrank {borrow.rank} {what}, the other ranks run on\n")
            self.shown |= borrow.post_mortem
            foreground = Foreground(terminal.streams[0], borrow.pid)
            try:
                with _interrupts_noted() as interrupted:
                    with suppress(OSError):  # The rank was killed.
                        socket.send_fds(rank, [_GRANTED], terminal.streams)
                    # Until the rank gives the terminal back, or is gone.
                    while not (select.select([rank], [], [], _PERIOD)[0] or over()):
                        foreground.follow_stop()
                        if interrupted():
                            interrupt()
            finally:
                foreground.take_back()
            self._enough |= _answer(rank) == _QUIT


def _answer(rank: socket.socket) -> bytes:
    with suppress(OSError):
        return rank.recv(1, socket.MSG_DONTWAIT)
    return b""


@contextmanager
def _interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came since that was last asked.

    Raised where it comes, `KeyboardInterrupt` could tear a message of the group in two, or end pytest since
    it came while somebody asked whether the rank is `over`.  One that nobody asked for is raised in the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def interrupted() -> bool:
        found = bool(came)
        came.clear()
        return found

    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(signal.SIGINT)
