"""A rank borrows the terminal of pytest, and what is typed and shown goes to and fro."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pytest_elastic.errors import DebuggerError
from pytest_elastic.launch._debugger import Loans, OpenTerminal, RankTerminal, Terminal
from pytest_elastic.multiprocessing._channel import Channel


class Desk:
    """A terminal whose keyboard is a pipe, the launcher that lends it, and a rank that wants it."""

    def __init__(self) -> None:
        self.launcher, theirs = Channel.pair()
        self.rank = RankTerminal(3, Channel(theirs))
        self.keys, self.keyboard = os.pipe()
        self.shown: list[str] = []
        self.freed = self.stood = 0
        self.inbox: deque[Any] = deque()
        self.ends: list[Any] = [self.launcher, self.rank._channel]

    @contextmanager
    def terminal(self) -> Iterator[Terminal | None]:
        self.freed += 1
        yield Terminal(self.keys, self.shown.append)

    @contextmanager
    def nothing(self) -> Iterator[Terminal | None]:
        yield None

    def loans(self, open_terminal: OpenTerminal) -> Loans:
        self.ends.append(made := Loans(open_terminal, {3: self.inbox}, self.clocks))
        return made

    def serve(
        self,
        loans: Loans,
        interrupt: Callable[[int], object] = lambda _: None,
        over: Callable[[int], bool] = lambda _: False,
    ) -> None:
        borrow, (descriptor,) = self.launcher.wait()
        self.inbox.append(replace(borrow, descriptor=descriptor))
        loans.serve(interrupt, over)

    @contextmanager
    def clocks(self) -> Iterator[None]:
        self.stood += 1
        yield

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def close(self) -> None:
        for end in self.ends:
            end.close()
        os.close(self.keys)
        os.close(self.keyboard)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """All of it."""
    made = Desk()
    yield made
    made.close()


@pytest.fixture
def aside() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Do something in a thread that ends with the test."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(10)


def test_to_and_fro(desk, aside):
    """What the rank writes is shown, what is typed is its line; then the terminal is free again."""

    def debug() -> None:
        desk.rank.write("prompt ä ")
        desk.rank.flush()
        desk.rank.write(desk.rank.readline().upper())
        desk.rank.give_back()

    aside(debug)
    desk.type("line\n")
    desk.serve(desk.loans(desk.terminal))
    assert desk.stood == 1
    assert "".join(desk.shown) == "\nrank 3 is in a debugger, the other ranks run on\nprompt ä LINE\n"


def test_borrowed_again(desk, aside):
    """A debugger that stops at a breakpoint of its own borrows it anew."""

    def debug() -> None:
        for _ in range(2):
            desk.rank.write("again\n")
            desk.rank.give_back()
            desk.rank.give_back()

    aside(debug)
    loans = desk.loans(desk.terminal)
    for _ in range(2):
        desk.serve(loans)
    assert ("".join(desk.shown).count("again"), desk.freed) == (2, 2)


def refused(desk, post_mortem=False):
    with pytest.raises(DebuggerError):
        desk.rank.borrow(post_mortem)


def test_quit(desk, aside):
    """Nobody gets it any more; the mark itself is not shown."""
    loans = desk.loans(desk.terminal)
    aside(lambda: (desk.rank.write("bye\n"), desk.rank.quit(), refused(desk)))
    desk.serve(loans)
    desk.serve(loans)
    assert "".join(desk.shown).endswith("\nbye\n")
    assert desk.freed == 1


def test_the_first_failure_is_shown(desk, aside):
    """Others are refused, until there is another phase; breakpoints are not concerned."""
    loans = desk.loans(desk.terminal)

    def debug() -> None:
        for _ in range(2):
            desk.rank.borrow(post_mortem=True)
            desk.rank.give_back()
            refused(desk, post_mortem=True)
        desk.rank.borrow()
        desk.rank.give_back()

    aside(debug)
    for shown in (False, True, False, True, True):
        loans.shown = shown
        desk.serve(loans)
    assert desk.shown.count("\nrank 3 has failed, the other ranks run on\n") == 2
    assert desk.shown.count("\nrank 3 is in a debugger, the other ranks run on\n") == 1


def test_no_terminal(desk, aside):
    """The rank is told so."""
    errors = []

    def debug() -> None:
        with pytest.raises(DebuggerError, match="rank 3 cannot open a debugger") as caught:
            desk.rank.borrow()
        errors.append(caught.value.rank)

    aside(debug)
    aside(partial(desk.serve, desk.loans(desk.nothing)))
    while not errors:
        time.sleep(0.001)
    assert errors == [3]


def test_the_end_of_input_is_the_ranks_too(desk, aside):
    """Ctrl-D ends its debugger."""
    lines = []

    def debug() -> None:
        lines.append(desk.rank.readline())
        desk.rank.give_back()

    aside(debug)
    os.close(desk.keyboard)
    desk.keyboard = os.dup(desk.keys)
    desk.serve(desk.loans(desk.terminal))
    assert lines == [""]


@pytest.mark.parametrize("place", ["while it shows", "while it asks"])
def test_interrupted(desk, aside, place):
    """Ctrl-C is for the rank wherever it comes, and the exchange goes on."""
    interrupts = []

    def show(text: str) -> None:
        desk.shown.append(text)
        if text == "now" and place == "while it shows":
            signal.raise_signal(signal.SIGINT)

    def over(rank: int) -> bool:
        if "now" in desk.shown and place == "while it asks" and not interrupts:
            signal.raise_signal(signal.SIGINT)
        return False

    @contextmanager
    def terminal() -> Iterator[Terminal]:
        yield Terminal(desk.keys, show)

    def debug() -> None:
        desk.rank.write("now")
        desk.rank.flush()
        desk.rank.write(desk.rank.readline())
        desk.rank.give_back()

    def interrupt(rank: int) -> None:
        interrupts.append(rank)
        desk.type("typed after it\n")

    aside(debug)
    before = signal.getsignal(signal.SIGINT)
    desk.serve(desk.loans(terminal), interrupt, over)
    assert (interrupts, desk.shown[-2]) == ([3], "typed after it\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_too_late(desk, aside):
    """What came when the rank had given the terminal back is pytest's."""

    def over(rank: int) -> bool:
        if "x" in desk.shown:
            signal.raise_signal(signal.SIGINT)
        return "x" in desk.shown

    def debug() -> None:
        desk.rank.write("x")
        desk.rank.flush()
        desk.rank.readline()
        desk.rank.give_back()

    aside(debug)
    loans = desk.loans(desk.terminal)
    with pytest.raises(KeyboardInterrupt):
        desk.serve(loans, over=over)
    loans.close()


def test_taken_away(desk, aside):
    """Where time is over the rank stays in its debugger, until nobody gets the terminal any more."""
    lines = []

    def debug() -> None:
        desk.rank.write("x")
        desk.rank.flush()
        lines.append(desk.rank.readline())
        desk.rank.give_back()

    aside(debug)
    loans = desk.loans(desk.terminal)
    desk.serve(loans, over=lambda _: "x" in desk.shown)
    assert lines == []
    loans.close()
    while not lines:
        time.sleep(0.001)
    assert lines == [""]
