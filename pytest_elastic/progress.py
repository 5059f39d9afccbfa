"""Progress of what takes longer than a second: searches, proofs, rounds of stress, kills.

*Rules.*  Nothing is shown before a second is over.  A terminal has a line that is written anew, ten times a
second at most; a file, such as the log of a CI run, gets a line every ten seconds.  A thread looks at it once
in a second, for work whose single steps take long.  The share that is done never goes back, whatever the
estimates do.  At the end a sentence says how many there were, and how it ended, if there was a line before.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol

from pytest_elastic.clock import SYSTEM_CLOCK, Clock
from pytest_elastic.pristine import threading

PATIENCE, ON_TERMINAL, IN_FILE = 1.0, 0.1, 10.0  # Seconds: before the first line, and between two.


class Output(Protocol):
    """Where progress is shown: a stream, as far as it is used."""

    def write(self, text: str, /) -> object:
        """Show a text."""
        ...

    def flush(self) -> object:
        """Show it now."""
        ...

    def isatty(self) -> bool:
        """Whether a line can be written anew."""
        ...


class _Nowhere:
    def isatty(self) -> bool:
        return False

    def write(self, text: str, /) -> None:
        pass

    def flush(self) -> None:
        pass


NOWHERE = _Nowhere()
_output: Output | None = None


def show_on(output: Output | None) -> Output | None:
    """Show the progress of this process there from now on; the value is where it was shown before.

    `None` is `sys.stderr`.
    """
    global _output
    former, _output = _output, output
    return former


class Progress:
    """Counts what is done, and shows it; a context, whose end is that of the work.

    Args:
        title: what is worked on.
        what: is counted, in the plural.
        total: the largest number of them.
        so_far: what there is to say until the end.
        output: by default that of `show_on`.
    """

    def __init__(
        self,
        title: str,
        what: str,
        total: int,
        output: Output | None = None,
        clock: Clock = SYSTEM_CLOCK,
        so_far: str = "no failure yet",
    ) -> None:
        self._title, self._what, self._total, self._clock = title, what, total, clock
        self._so_far = so_far
        self._output: Output = output or _output or sys.stderr
        self._tty = self._output.isatty()
        self._started = clock.monotonic()
        self._next = self._started + (PATIENCE if self._tty else IN_FILE)
        self._share, self._estimated, self._width, self._shown = 0.0, False, 0, False
        self.done = 0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._watch = threading.Thread(target=self._look_again, name="progress", daemon=True)
        if self._output is not NOWHERE:
            self._watch.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("stopped by a failure" if kind is not None else "no failure")

    def count(self, share: float | None = None) -> None:
        """Count one; `share` is the part of the whole that is done, if that is known better."""
        with self._lock:
            self.done += 1
            self._share = max(self._share, min(1.0, self.done / self._total if share is None else share))
            self._estimated = share is not None
            self._look()

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + (ON_TERMINAL if self._tty else IN_FILE)
        seconds = now - self._started
        speed = f", {self.done / seconds:.3g}/s" if self.done else f" in {seconds:.0f} s"
        of = f"{self._share:.1%} of all"
        if not self._estimated:
            of = f"{self._share:.0%} of {self._number(self._total)}"
        self._show(f"{self._title}: {self._number(self.done)}{speed}, {self._so_far}, {of}")

    def _look_again(self) -> None:
        while not self._over.wait(PATIENCE):
            with self._lock:
                self._look()

    def close(self, how: str = "no failure") -> None:
        """End it, with the sentence `400 rounds, no failure`."""
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()
        seconds = self._clock.monotonic() - self._started
        if self._shown:
            self._show(f"{self._title}: {self._number(self.done)}, {how} ({seconds:.1f} s)")
            if self._tty:
                self._output.write("\n")
            self._output.flush()
            self._shown = False

    def _number(self, number: int) -> str:
        return f"{number} {self._what if number != 1 else self._what.removesuffix('s')}"

    def _show(self, text: str) -> None:
        begin = "" if self._shown else "\n"  # pytest's own line is not at its end.
        line = f"\r{text.ljust(self._width)}" if self._tty else f"{text}\n"
        self._output.write(begin + line)
        self._output.flush()
        self._width, self._shown = len(text), True
