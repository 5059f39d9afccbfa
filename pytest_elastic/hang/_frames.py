"""Python stacks as `faulthandler` writes them: read into frames, without the harness's own.

A dump is made by a signal handler in C, so it works in a rank that holds the GIL for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

_THREAD = re.compile(r"^(Current thread|Thread) (0x[0-9a-f]+)(?: \[.*\])? \(most recent call first\):")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
# Where a rank's own code is entered, and all that runs tests.
_ENTRY = re.compile(r"/pytest_elastic/(launch/_rank\b|plugin/_runner|multiprocessing/(_guardian|_functions))")
_HARNESS = re.compile(
    r"/(_pytest|pluggy|pytest_elastic/(plugin|multiprocessing|adoption))/|/pytest_elastic/launch/_rank\b"
)
_TARGET = (("_bootstrap", "run"), "/multiprocessing/process.py")  # What calls the target of a process.
_LIBRARY = re.compile(r"/(site-packages|dist-packages|lib/python3\.\d+)/|^<frozen ")
_PACKAGE = str(Path(__file__).parents[1]) + "/"
_OURS = re.compile(
    r"/pytest_elastic/(adoption|collectives|launch|loop|multiprocessing|plugin|replays|store|timer)\b"
)
_INSIDE = re.compile(r"/pytest_elastic/store/(?!_collective)")


@dataclass(frozen=True, slots=True)
class Frame:
    """One call.

    Attributes:
        file: the library, for a call in C whose source is not known.
        line: 0 where it is not known.
        function: its name without those of what it belongs to; whole in C.
        native: whether it is in C.
    """

    file: str
    line: int
    function: str
    native: bool = False

    @property
    def short(self) -> str:
        """Without directories, the function first: `train test_x.py:12`."""
        return f"{self.function} {PurePath(self.file).name}" + (f":{self.line}" if self.line else "")

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        return f"{self.file}{line} in {self.function}"


@dataclass(frozen=True, slots=True)
class Stack:
    """The calls of one thread, outermost first.

    Attributes:
        current: whether this thread handled the signal: the main thread, where it is not in C.
    """

    frames: tuple[Frame, ...]
    current: bool


def is_library(file: str) -> bool:
    """Whether a source file belongs to an installed library, the interpreter or this package."""
    return file.startswith(_PACKAGE) or _LIBRARY.search(file) is not None


def is_ours(file: str) -> bool:
    """Whether a source file belongs to this package, wherever it was installed."""
    return file.startswith(_PACKAGE) or _OURS.search(file) is not None


def parse_stacks(text: str) -> list[Stack]:
    """The stacks in a dump, in its order; text that is no stack is passed over."""
    stacks: list[tuple[list[Frame], bool]] = []
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            stacks.append(([], thread[1] == "Current thread"))
        elif stacks and (frame := _FRAME.match(line)):
            number = int(frame["line"]) if frame["line"].isdigit() else 0
            stacks[-1][0].append(Frame(frame["file"], number, frame["function"]))
    return [Stack(tuple(reversed(frames)), current) for frames, current in stacks if frames]


def cut_harness(stack: Stack) -> Stack:
    """The stack from the user's first frame to where a store is entered, without frames of the harness.

    Where there is no frame of the user, it is what the harness called last, which may be nothing.
    """
    frames = stack.frames
    users = [number for number, frame in enumerate(frames) if is_users(frame)]
    entries = [number for number, frame in enumerate(frames) if _ENTRY.search(frame.file)]
    harness = [number for number, frame in enumerate(frames) if _is_harness(frame)]
    # Of a rank's entries the last one, of another pytest's first: tests run pytest in pytest.
    begins = entries[::-1] or harness
    begin = next((one for one in begins if users and one < users[-1]), None)
    if begin is not None:
        first = next(number for number in users if number > begin)
    else:
        first = harness[-1] + 1 if harness else 0
    kept = tuple(frame for frame in frames[first:] if not _is_harness(frame))
    inside = next((i for i, frame in enumerate(kept) if _INSIDE.search(frame.file)), len(kept))
    return Stack(kept[: inside + 1], stack.current)


def is_users(frame: Frame) -> bool:
    """Whether a call is in nobody's library."""
    return not (frame.native or is_library(frame.file) or is_ours(frame.file) or _is_harness(frame))


def _is_harness(frame: Frame) -> bool:
    functions, file = _TARGET
    return bool(_HARNESS.search(frame.file)) or (frame.function in functions and frame.file.endswith(file))


def fold(stacks: dict[int, list[Stack]]) -> list[tuple[list[int], list[Stack]]]:
    """Ranks with equal stacks together: (ranks, stacks), in the order of each one's first rank."""
    folded: dict[tuple[Stack, ...], list[int]] = {}
    for rank in sorted(stacks):
        folded.setdefault(tuple(stacks[rank]), []).append(rank)
    return [(ranks, list(key)) for key, ranks in folded.items()]
