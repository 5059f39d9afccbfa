"""A rank borrows the terminal of pytest: its standard streams are pytest's until it gives them back."""

from __future__ import annotations

import os
import pty
import select
import signal
import termios
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pytest_elastic.errors import DebuggerError
from pytest_elastic.launch._debugger import Loans, OpenTerminal, RankTerminal, Terminal
from pytest_elastic.multiprocessing._channel import Channel


class Desk:
    """A terminal, the launcher that lends it, and a rank, which is a process, that wants it."""

    def __init__(self) -> None:
        self.launcher, self._theirs = Channel.pair()
        self.keyboard, self.terminal_end = pty.openpty()
        self.freed = self.stood = 0
        self.inbox: deque[Any] = deque()
        self.made: list[Loans] = []
        self.pid, self._seen = 0, b""

    @contextmanager
    def terminal(self) -> Iterator[Terminal | None]:
        self.freed += 1
        yield Terminal((self.terminal_end,) * 3, lambda text: os.write(self.terminal_end, text.encode()))

    @contextmanager
    def nothing(self) -> Iterator[Terminal | None]:
        yield None

    def rank(self, debug: Callable[[RankTerminal], object]) -> None:
        """Start the rank: it does this, and ends with 0 if nothing was wrong."""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.keyboard)
                self.launcher.close()
                debug(RankTerminal(3, Channel(self._theirs)))
                code = 0
            finally:
                os._exit(code)

    def loans(self, open_terminal: OpenTerminal) -> Loans:
        self.made.append(Loans(open_terminal, {3: self.inbox}, self.clocks))
        return self.made[-1]

    def serve(
        self,
        loans: Loans,
        interrupt: Callable[[int], object] = lambda _: None,
        over: Callable[[int], bool] = lambda _: False,
    ) -> None:
        borrow, (descriptor,) = self.launcher.wait()
        assert borrow.pid == self.pid
        self.inbox.append(replace(borrow, descriptor=descriptor))
        loans.serve(interrupt, over)

    @contextmanager
    def clocks(self) -> Iterator[None]:
        self.stood += 1
        yield

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def shown(self) -> str:
        """What the terminal showed since this was last asked."""
        os.write(self.terminal_end, b"\0")  # The kernel brings what was written a moment later, but in order.
        while b"\0" not in self._seen:
            assert select.select([self.keyboard], [], [], 20)[0]
            self._seen += os.read(self.keyboard, 1 << 16)
        found, _, self._seen = self._seen.partition(b"\0")
        return found.decode().replace("\r\n", "\n")

    def end(self) -> None:
        """The rank has ended as it should."""
        pid, self.pid = self.pid, 0
        assert os.waitpid(pid, 0)[1] == 0

    def close(self) -> None:
        for loans in self.made:
            loans.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.launcher.close()
        self._theirs.close()
        os.close(self.keyboard)
        os.close(self.terminal_end)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """All of it."""
    made = Desk()
    yield made
    made.close()


def write(text: str) -> None:
    os.write(1, text.encode())


def test_to_and_fro(desk):
    """What the rank writes is shown, what is typed is its line; then its streams are its own again."""

    def debug(terminal: RankTerminal) -> None:
        before = os.fstat(1)
        terminal.borrow()
        terminal.borrow()
        write("prompt ä ")
        write(os.read(0, 100).decode().upper())
        terminal.give_back()
        terminal.give_back()
        assert os.path.samestat(os.fstat(1), before)
        assert len(os.listdir("/proc/self/fd")) == count

    desk.type("line\n")
    echo = ""
    while echo != "line\n":  # The kernel echoes it a moment later.
        echo += desk.shown()
    count = len(os.listdir("/proc/self/fd")) - 2  # Without the ends of the keyboard and of the channel.
    desk.rank(debug)
    desk.serve(desk.loans(desk.terminal))
    desk.end()
    assert desk.stood == 1
    assert desk.shown() == "\nrank 3 is in a debugger, the other ranks run on\nprompt ä LINE\n"


def test_borrowed_again(desk):
    """A debugger that stops at a breakpoint of its own borrows it anew."""

    def debug(terminal: RankTerminal) -> None:
        for _ in range(2):
            terminal.borrow()
            write("again\n")
            terminal.give_back()

    desk.rank(debug)
    loans = desk.loans(desk.terminal)
    for _ in range(2):
        desk.serve(loans)
    assert (desk.shown().count("again"), desk.freed) == (2, 2)
    desk.end()


def refused(terminal: RankTerminal, post_mortem: bool = False) -> None:
    with pytest.raises(DebuggerError, match="rank 3 cannot open a debugger"):
        terminal.borrow(post_mortem)


def test_quit(desk):
    """Nobody gets it any more."""

    def debug(terminal: RankTerminal) -> None:
        terminal.borrow()
        write("bye\n")
        terminal.quit()
        refused(terminal)

    desk.rank(debug)
    loans = desk.loans(desk.terminal)
    desk.serve(loans)
    desk.serve(loans)
    desk.end()
    assert desk.shown().endswith("\nbye\n")
    assert desk.freed == 1


def test_the_first_failure_is_shown(desk):
    """Others are refused, until there is another phase; breakpoints are not concerned."""

    def debug(terminal: RankTerminal) -> None:
        for _ in range(2):
            terminal.borrow(post_mortem=True)
            terminal.give_back()
            refused(terminal, post_mortem=True)
        terminal.borrow()
        terminal.give_back()

    desk.rank(debug)
    loans = desk.loans(desk.terminal)
    for shown in (False, True, False, True, True):
        loans.shown = shown
        desk.serve(loans)
    desk.end()
    text = desk.shown()
    assert text.count("\nrank 3 has failed, the other ranks run on\n") == 2
    assert text.count("\nrank 3 is in a debugger, the other ranks run on\n") == 1


def test_no_terminal(desk):
    """The rank is told so."""
    desk.rank(refused)
    desk.serve(desk.loans(desk.nothing))
    desk.end()


def test_the_end_of_input_is_the_ranks_too(desk):
    """Ctrl-D ends its debugger."""

    def debug(terminal: RankTerminal) -> None:
        terminal.borrow()
        assert os.read(0, 100) == b""
        terminal.give_back()

    desk.rank(debug)
    desk.type("\x04")
    desk.serve(desk.loans(desk.terminal))
    desk.end()


def read_a_line(terminal: RankTerminal) -> None:
    terminal.borrow()
    os.read(0, 100)
    terminal.give_back()


def test_interrupted(desk):
    """A SIGINT that is sent to pytest is for the rank, and the loan goes on."""
    interrupts = []

    def over(rank: int) -> bool:
        if not interrupts:
            signal.raise_signal(signal.SIGINT)
        return False

    def interrupt(rank: int) -> None:
        interrupts.append(rank)
        desk.type("typed after it\n")

    desk.rank(read_a_line)
    before = signal.getsignal(signal.SIGINT)
    desk.serve(desk.loans(desk.terminal), interrupt, over)
    desk.end()
    assert interrupts == [3]
    assert signal.getsignal(signal.SIGINT) is before


def interrupted_and_over(rank: int) -> bool:
    signal.raise_signal(signal.SIGINT)
    return True


def test_interrupted_too_late(desk):
    """What came when the rank had the terminal no more is pytest's."""
    desk.rank(read_a_line)
    with pytest.raises(KeyboardInterrupt):
        desk.serve(desk.loans(desk.terminal), over=interrupted_and_over)


@pytest.mark.parametrize("end", ["over", "killed", "interrupted"])
def test_the_modes_of_the_terminal_are_restored(desk, end):
    """However the loan ends: time is over, the rank is killed, an error comes."""

    def debug(terminal: RankTerminal) -> None:
        terminal.borrow()
        modes = termios.tcgetattr(0)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(0, termios.TCSANOW, modes)
        write("raw")
        os.kill(os.getpid(), signal.SIGKILL if end == "killed" else signal.SIGSTOP)

    def over(rank: int) -> bool:
        if not termios.tcgetattr(desk.terminal_end)[3] & termios.ECHO:
            if end == "interrupted":
                raise ZeroDivisionError
            return end == "over"
        return False

    before = termios.tcgetattr(desk.terminal_end)
    desk.rank(debug)
    try:
        desk.serve(desk.loans(desk.terminal), over=over)
    except ZeroDivisionError:
        assert end == "interrupted"
    assert termios.tcgetattr(desk.terminal_end) == before


def test_taken_away(desk):
    """Where time is over the rank stays in its debugger."""
    desk.rank(read_a_line)
    desk.serve(desk.loans(desk.terminal), over=lambda _: True)
    assert os.waitpid(desk.pid, os.WNOHANG) == (0, 0)
    desk.type("line\n")
    desk.end()
