"""Tracebacks of a user's error: the user's own frames, and of what is below the last one where it was raised.

*Rules.*
1. Frames of this package, of pytest and of pluggy are nobody's but ours: none is shown.
2. Frames of the user are shown, each.  What is in no library is the user's.
3. Other libraries are folded: between two frames of the user they are left out, below the last one the
   innermost call stays.  Of torch none does, since its wrappers and checks say nothing of the line.
4. Where that leaves nothing the innermost call stays.  The errors that an error came from are cut, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from pytest_elastic.hang import is_library

_PACKAGE = str(Path(__file__).parents[1])
_RUNNERS = re.compile(r"/(_pytest|pluggy)/")
_TORCH = re.compile(r"/torch/")


def cut_error(error: BaseException, config: pytest.Config) -> None:
    """Cut the traceback of an error and of what it came from, in place; not for `--pdb` or `--full-trace`."""
    if not (config.getoption("fulltrace", False) or config.getoption("usepdb", False)):
        for one in family_of(error):
            one.__traceback__ = cut_traceback(one.__traceback__)


def excinfo_of(error: BaseException) -> pytest.ExceptionInfo[BaseException]:
    """The error as pytest has it, with the traceback that it has by now."""
    trace = error.__traceback__
    assert trace is not None
    return pytest.ExceptionInfo.from_exc_info((type(error), error, trace))


def cut_traceback(trace: TracebackType | None) -> TracebackType | None:
    """The traceback with the frames that its reader knows; a new one, whose calls are the same."""
    whole = [*calls_of(trace)]
    calls = [one for one in whole if not is_runners(file_of(one))]
    users = [number for number, one in enumerate(calls) if not is_library(file_of(one))]
    kept = [calls[number] for number in users]
    below = [one for one in calls[users[-1] + 1 if users else 0 :] if not _TORCH.search(file_of(one))]
    cut = None
    seen = [one for one in (calls or whole) if not one.tb_frame.f_locals.get("__tracebackhide__", False)]
    for one in reversed([*kept, *below[-1:]] if kept else seen[-1:] or whole):
        cut = TracebackType(cut, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return cut


def is_in_tests(error: BaseException) -> bool:
    """Whether a call of something else than the runners is in the traceback."""
    return any(not is_runners(file_of(one)) for one in calls_of(error.__traceback__))


def calls_of(trace: TracebackType | None) -> Iterator[TracebackType]:
    """The calls of a traceback, outermost first."""
    while trace is not None:
        yield trace
        trace = trace.tb_next


def file_of(trace: TracebackType) -> str:
    return trace.tb_frame.f_code.co_filename


def is_runners(file: str) -> bool:
    return file.startswith(_PACKAGE) or (is_library(file) and _RUNNERS.search(file) is not None)


def family_of(error: BaseException) -> list[BaseException]:
    """The error, those that it came from, and those that are in it; each once."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and all(one is not other for other in found):
            found.append(one)
            left += [one.__cause__, one.__context__, *(getattr(one, "exceptions", ()) or ())]
    return found
