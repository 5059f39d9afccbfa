"""A debugger in a rank, at the terminal of pytest.

*Theory of operation.*  A rank has no terminal: its input is at its end, and it is not the terminal's
foreground.  When a debugger opens in it, the rank sends one end of a socket pair to the launcher
(`Borrow`) and waits.  The launcher, whenever it waits for ranks, hands lines to and fro between that
socket and the terminal until the rank gives it back, or ends.  Several ranks take turns.  Ctrl-C goes to
the rank that has the terminal.  Where there is none, the rank is told so, and the debugger is an error;
likewise once somebody has quit the debugger of one rank, so that it need not be quit on all others.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_elastic.errors import DebuggerError
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.pristine import os, select, signal, socket, threading

_GRANTED = b"+"
_ENOUGH = "\0"  # The last character of a rank whose debugger was quit.
_LOOK_UP = 0.1


@dataclass(frozen=True, slots=True)
class Borrow:
    """From the rank: it wants the terminal, and talks to it through the socket that comes along.

    Attributes:
        rank: which.
        post_mortem: it has failed; the first one's failure is shown, and no other's.
        descriptor: of the socket, in the launcher.
    """

    rank: int
    post_mortem: bool = False
    descriptor: int = -1


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal of pytest, free to be used.

    Attributes:
        descriptor: to read from.
        write: takes text.
    """

    descriptor: int
    write: Callable[[str], object]


OpenTerminal = Callable[[], AbstractContextManager[Terminal | None]]
"""Frees the terminal while the context lasts; `None` where there is none."""


class RankTerminal:
    """In a rank: the terminal of pytest as a text stream for a debugger.  Borrowed at its first use."""

    encoding = "utf-8"

    def __init__(self, rank: int, channel: Channel) -> None:
        self._rank, self._channel = rank, channel
        self._file: Any = None

    def borrow(self, post_mortem: bool = False) -> Any:
        """Have it; blocks until the launcher waits for this rank and no other rank has it.

        Raises:
            DebuggerError: pytest has no terminal, or lends it to this rank no more.
        """
        __tracebackhide__ = True
        if self._file is None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._channel.send(Borrow(self._rank, post_mortem), (theirs.fileno(),))
                theirs.close()
                if ours.recv(1) != _GRANTED:
                    raise DebuggerError(self._rank)
                self._file = ours.makefile("rw", encoding=self.encoding, errors="replace")
        return self._file

    def quit(self) -> None:
        """Give it back, for all ranks of the group."""
        self.write(_ENOUGH)
        self.give_back()

    def give_back(self) -> None:
        """Until its next use; idempotent."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # The launcher took it away.
                file.close()

    def readline(self) -> str:
        """A line that was typed; `""` at the end of input."""
        return str(self.borrow().readline())

    def write(self, text: str) -> None:
        """Show text."""
        self.borrow().write(text)

    def flush(self) -> None:
        """Show it now."""
        if self._file is not None:
            self._file.flush()


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
            if terminal is None:
                rank.close()
                return
            # Kept open: a rank whose time is over shall be seen in its debugger, and not on its way out.
            self._lent.append(rank)
            what = "has failed" if borrow.post_mortem else "is in a debugger"
            terminal.write(f"\nrank {borrow.rank} {what}, the other ranks run on\n")
            rank.sendall(_GRANTED)
            self.shown |= borrow.post_mortem
            self._enough |= _Exchange(terminal, rank).run(interrupt, over)


class _Exchange:
    """What is typed goes to the rank, what the rank writes is shown."""

    def __init__(self, terminal: Terminal, rank: socket.socket) -> None:
        self._terminal, self._rank = terminal, rank
        self._ended = self._enough = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._poll = select.poll()
        for descriptor in (terminal.descriptor, rank.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def run(self, interrupt: Callable[[], object], over: Callable[[], bool]) -> bool:
        with _interrupts_noted() as interrupted:
            while not (self._ended or over()):
                try:
                    for descriptor, _ in self._poll.poll(_LOOK_UP * 1000):
                        self._show() if descriptor == self._rank.fileno() else self._type()
                except OSError:  # The rank was killed with our bytes unread.
                    break
                if interrupted():
                    interrupt()
        return self._enough

    def _show(self) -> None:
        data = self._rank.recv(1 << 16)
        text = self._decode(data)
        self._enough = text.endswith(_ENOUGH)
        self._ended = self._enough or not data
        self._terminal.write(text.removesuffix(_ENOUGH))

    def _type(self) -> None:
        data = os.read(self._terminal.descriptor, 1 << 16)
        if data:
            self._rank.sendall(data)
        else:  # Ctrl-D, or the terminal is gone: the debugger ends by it.
            self._poll.unregister(self._terminal.descriptor)
            self._rank.shutdown(socket.SHUT_WR)


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
