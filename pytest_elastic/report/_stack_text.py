"""Stacks for people: the user's own calls, each with its source, and one line for what is between them.

*Rules.*  A run of calls in libraries is a line: its first and last function, of C the innermost that has a
name.  Calls of this package are not shown: the user's line that entered it is above, and says what it does.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Sequence
from itertools import groupby

from pytest_elastic.hang import Frame, Stack, cut_harness, fold, is_library, is_ours
from pytest_elastic.report._outcome import RankEnd
from pytest_elastic.wording import name_ranks

_MOST = 12  # Runs of calls that are shown of a stack, from its end.
_WRAPPER = re.compile(r"/torch/.* in (wrapper|decorate_context|_wrapped_call_impl|_call_impl|__call__|_fn)$")


def stack_text(stacks: Sequence[Stack], indent: str = "  ") -> str:
    """Stacks, the current thread first, the innermost call last; without frames of the harness."""
    lines = []
    for number, stack in enumerate(sorted(map(cut_harness, stacks), key=lambda stack: not stack.current)):
        if number:
            lines.append(f"{indent}another thread:")
        lines += [f"{indent}{line}" for line in stack_lines(stack)]
    return "\n".join(lines) or f"{indent}(no Python stack could be had)"


def stack_lines(stack: Stack) -> list[str]:
    """The lines of a stack that is cut to its user's frames."""
    shown = [frame for frame in stack.frames if not is_ours(frame.file) and not _WRAPPER.search(str(frame))]
    runs: list[list[str]] = []
    for is_users, calls in groupby(shown, lambda frame: not (frame.native or is_library(frame.file))):
        run = list(calls)
        runs += [user_lines(frame) for frame in run] if is_users else [[line] for line in folded(run)]
    left = [f"… {len(runs) - _MOST} more calls"] if len(runs) > _MOST else []
    return left + [line for run in runs[-_MOST:] for line in run] or [
        "in pytest itself, in no code of the test"
    ]


def user_lines(frame: Frame) -> list[str]:
    source = linecache.getline(frame.file, frame.line).strip()
    return [str(frame), f"    {source}"] if source else [str(frame)]


def folded(run: Sequence[Frame]) -> list[str]:
    """A line for calls in libraries, none where nothing of them has a name."""
    calls = [frame.short for frame in run if not frame.native]
    named = [frame for frame in run if frame.native and not frame.function.startswith("0x")]
    if len(calls) > 2:
        calls[1:-1] = [f"({len(calls) - 2} more)"]
    calls += [f"{frame.function} (C)" for frame in named[-1:]]
    return [f"… {' → '.join(calls)}"] if calls else []


def stack_sections(what: str, ends: Sequence[RankEnd]) -> list[tuple[str, str]]:
    """A section (title, text) for each stack, equal ones of several ranks together."""
    stacks = {end.rank: [cut_harness(stack) for stack in end.stacks] for end in ends}
    return [(f"{name_ranks(ranks)} {what}", stack_text(folded)) for ranks, folded in fold(stacks)]
