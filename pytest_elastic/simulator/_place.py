"""Where a rank stands in its own code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parent.parent)


def place_of(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost line that is not this package's, as `file:line`; `"?"` where there is none.

    Args:
        frames: with their lines, outermost first.
    """
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    theirs = [f"{file}:{line}" for file, line in places if not file.startswith(_PACKAGE)]
    return theirs[-1] if theirs else "?"
