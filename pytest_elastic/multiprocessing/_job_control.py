"""Job control: which process group is the foreground of the terminal, and the modes of the terminal.

*Theory of operation.*  A terminal has one foreground process group: only that group may read, and Ctrl-C and
Ctrl-Z are signals for it.  Ranks are process groups in the session of pytest, so one can be put in front.  It
is no job of the user's shell, which waits for pytest: when Ctrl-Z has stopped the rank, pytest takes the
terminal back and stops as well, and `fg` lets both go on.

Where the terminal does not belong to the session of the rank (`setsid pytest`, or a rank in a session of its
own) there is no job control: any process that holds the terminal may read, and Ctrl-C never comes from it.
"""

from __future__ import annotations

import termios
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pytest_elastic.pristine import os, signal, time
from pytest_elastic.processes import state

_PERIOD, _TRIES = 0.1, 3  # Between two attempts to come to the foreground, and how many there are.
_LAUNCHER: list[int] = []  # The process group that the first caretaker was forked from.


class Foreground:
    """The terminal while the process group of another process is its foreground.

    Args:
        terminal: descriptor.
        pid: of the process; its group is moved to the foreground.
    """

    def __init__(self, terminal: int, pid: int) -> None:
        self._terminal, self._pid = terminal, pid
        self._modes = termios.tcgetattr(terminal)
        self._controlled = self.lend()

    def lend(self) -> bool:
        """Make the process's group the foreground; whether that could be done."""
        with suppress(ProcessLookupError):
            return move_to_foreground(self._terminal, os.getpgid(self._pid))
        return False

    def take_back(self) -> None:
        """Be the foreground again, and restore the modes of the terminal; idempotent."""
        if self._controlled:
            move_to_foreground(self._terminal, os.getpgrp())
        set_modes(self._terminal, self._modes)

    def follow_stop(self) -> None:
        """Stop this process group if Ctrl-Z has stopped the process; returns when both go on."""
        if not self._controlled or state(self._pid) != "T":
            return
        theirs = termios.tcgetattr(self._terminal)
        self.take_back()
        os.kill(0, signal.SIGTSTP)
        while not wait_for_foreground(self._terminal):
            pass  # `bg` again and again: the terminal is the shell's until `fg`.
        self._modes = termios.tcgetattr(self._terminal)
        set_modes(self._terminal, theirs)
        self._controlled = self.lend()
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(self._pid), signal.SIGCONT)


def wait_for_foreground(terminal: int) -> bool:
    """Stop this process group, as any job that reads in the background, until it is the foreground.

    Returns:
        Whether it may read: not if no shell stops it, or it was continued in the background repeatedly.
    """
    for _ in range(_TRIES):
        try:
            if os.tcgetpgrp(terminal) == os.getpgrp():
                return True
        except OSError:  # Not the terminal of this session: whoever holds it may read.
            return True
        os.kill(0, signal.SIGTTIN)
        time.sleep(_PERIOD)
    return False


def move_to_foreground(terminal: int, group: int) -> bool:
    """Make a process group the foreground; whether that could be done."""
    with background_access():
        try:
            os.tcsetpgrp(terminal, group)
        except OSError:  # Another session's, or the group is gone.
            return False
    return True


def remember_launcher() -> None:
    """In a caretaker that still is in the process group of the launcher: `reclaim_terminal` needs it."""
    if not _LAUNCHER:
        _LAUNCHER.append(os.getpgrp())


def reclaim_terminal(groups: Collection[int]) -> None:
    """Restore the terminal if its foreground is one of these groups, for a launcher that was killed."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    with suppress(OSError, termios.error):
        if os.tcgetpgrp(terminal) in groups:
            modes = termios.tcgetattr(terminal)
            modes[0] |= termios.BRKINT | termios.ICRNL
            modes[1] |= termios.OPOST | termios.ONLCR
            modes[3] |= termios.ICANON | termios.ISIG | termios.IEXTEN | termios.ECHO | termios.ECHOE
            set_modes(terminal, modes)
            # A launcher that had its group for itself has left it empty; its shell then takes the terminal.
            move_to_foreground(terminal, _LAUNCHER[0])
    os.close(terminal)


def set_modes(terminal: int, modes: list[Any]) -> None:
    with background_access(), suppress(termios.error):  # It was hung up.
        termios.tcsetattr(terminal, termios.TCSANOW, modes)


@contextmanager
def background_access() -> Iterator[None]:
    """Inside, changes to the terminal do not stop a process in the background."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
