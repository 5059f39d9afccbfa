"""Words for ranks, signals and exit codes: one phrasing for each fact, in every message and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from pytest_elastic.pristine import signal


def name_ranks(ranks: Iterable[int]) -> str:
    """Ranks in words, each once, in ascending order.

    >>> name_ranks([1]), name_ranks([5, 0, 1, 2])
    ('rank 1', 'ranks 0-2, 5')
    """
    found = sorted(set(ranks))
    return f"{'rank' if len(found) == 1 else 'ranks'} {number_ranks(found)}"


def number_ranks(ranks: Iterable[int]) -> str:
    """Ranks in words, without the word.

    >>> number_ranks([5, 0, 1, 2])
    '0-2, 5'
    """
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def plural(text: str, subjects: Sized) -> str:
    """A text that begins with its verb, as it is said of so many subjects.

    >>> plural("was killed by SIGKILL", [0, 1])
    'were killed by SIGKILL'
    >>> plural("sleeps at train.py:3", [0, 1])
    'sleep at train.py:3'
    """
    verb, space, rest = text.partition(" ")
    return text if len(subjects) == 1 else _PLURALS.get(verb, verb) + space + rest


_PLURALS = {"is": "are", "was": "were", "has": "have", "does": "do"} | {
    f"{verb}s": verb for verb in ("wait", "compute", "call", "read", "write", "sleep")
}


def signal_name(number: int) -> str:
    """The name of a signal.

    >>> signal_name(9), signal_name(99)
    ('SIGKILL', 'signal 99')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_text(exitcode: int) -> str:
    """How a process ended, as a verb phrase; its exit code is -n for signal n.

    >>> exit_text(3), exit_text(-9)
    ('exited with code 3', 'was killed by SIGKILL')
    """
    return f"exited with code {exitcode}" if exitcode >= 0 else f"was killed by {signal_name(-exitcode)}"


def exit_label(exitcode: int) -> str:
    """How a process ended, where no verb fits: in brackets and on timelines.

    >>> exit_label(3), exit_label(-9)
    ('exited with code 3', 'killed by SIGKILL')
    """
    return exit_text(exitcode).removeprefix("was ")


def read_exits(value: Any, size: int) -> dict[int, int]:
    """The exit codes that a test expects of ranks: rank -> exit code, -n for signal n.

    Args:
        value: rank -> a signal's name, a `signal.Signals`, or an exit code.
        size: the number of ranks, 0 if it is not known.

    Raises:
        ValueError: no rank can end like that; the text says what is allowed.

    >>> read_exits({0: "SIGKILL", 2: 3}, size=3)
    {0: -9, 2: 3}
    """
    allowed = "allowed is a dict of rank to a signal's name ('SIGKILL') or an exit code"
    if not isinstance(value, Mapping):
        raise ValueError(allowed)
    exits = {}
    for rank, end in value.items():
        if type(rank) is not int or rank < 0 or (size and rank >= size):
            raise ValueError(f"{rank!r} is no rank of the test; {allowed}")
        if isinstance(end, str) and end in signal.Signals.__members__:
            end = signal.Signals[end]
        code = -end if isinstance(end, signal.Signals) else end
        if type(code) is not int or not (0 <= code <= 255 or -code in signal.valid_signals()):
            raise ValueError(f"{end!r} is no end; {allowed}")
        exits[rank] = code
    return exits
