"""Exit codes: in words, and as tests say which they expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_elastic.pristine import signal


def describe_exit(exitcode: int) -> str:
    """An exit code in words: "died by SIGSEGV", "exited with code 3"."""
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        return f"died by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"died by signal {-exitcode}"


def read_ends(value: Any, size: int) -> dict[int, int]:
    """What a test says of ranks that are to die: rank -> exit code, negative for a signal.

    Args:
        value: rank -> a signal's name, a `signal.Signals`, or an exit code as the result has it.
        size: the number of ranks, 0 if it is not known.

    Raises:
        ValueError: no rank can end like that; the text says what is allowed.
    """
    allowed = "allowed is a dict of rank to a signal's name ('SIGKILL') or an exit code"
    if not isinstance(value, Mapping):
        raise ValueError(allowed)
    ends = {}
    for rank, end in value.items():
        if type(rank) is not int or rank < 0 or (size and rank >= size):
            raise ValueError(f"{rank!r} is no rank of the test; {allowed}")
        if isinstance(end, str) and end in signal.Signals.__members__:
            end = signal.Signals[end]
        code = -end if isinstance(end, signal.Signals) else end
        if type(code) is not int or not (0 <= code <= 255 or -code in signal.valid_signals()):
            raise ValueError(f"{end!r} is no end; {allowed}")
        ends[rank] = code
    return ends
