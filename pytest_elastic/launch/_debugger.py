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
import os
import select
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from pytest_elastic.errors import DebuggerError
from pytest_elastic.multiprocessing._channel import Channel

_GRANTED = b"+"
_ENOUGH = "\0"  # The last character of a rank whose debugger was quit.
_LOOK_UP = 0.1


@dataclass(frozen=True, slots=True)
class Borrow:
    """From the rank: it wants the terminal, and talks to it through the socket that comes along."""

    rank: int
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

    def borrow(self) -> Any:
        """Have it; blocks until the launcher waits for this rank and no other rank has it.

        Raises:
            DebuggerError: pytest has no terminal.
        """
        __tracebackhide__ = True
        if self._file is None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._channel.send(Borrow(self._rank), (theirs.fileno(),))
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


def lend(
    open_terminal: OpenTerminal, borrow: Borrow, interrupt: Callable[[], object], over: Callable[[], bool]
) -> bool:
    """In the launcher: let a rank have the terminal until it gives it back; whether that was by quitting.

    Args:
        open_terminal: frees it.
        borrow: what the rank sent; its descriptor is closed at the end.
        interrupt: what Ctrl-C does meanwhile.
        over: asked several times a second; ends it.
    """
    with socket.socket(fileno=borrow.descriptor) as rank, open_terminal() as terminal:
        if terminal is not None:
            terminal.write(f"\nrank {borrow.rank} is in a debugger, the other ranks run on\n")
            rank.sendall(_GRANTED)
            return _Exchange(terminal, rank).run(interrupt, over)
    return False


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
        while not (self._ended or over()):
            try:
                for descriptor, _ in self._poll.poll(_LOOK_UP * 1000):
                    self._show() if descriptor == self._rank.fileno() else self._type()
            except KeyboardInterrupt:
                interrupt()
            except OSError:  # The rank was killed with our bytes unread.
                break
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
