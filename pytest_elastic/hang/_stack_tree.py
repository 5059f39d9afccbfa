"""The stacks of all ranks as one prefix tree.

*Theory.*  Ranks mostly run the same program, so their stacks share their outer calls; the point where they
part is of interest.  A node is a run of calls that a set of ranks has in common, up to where the set splits;
the innermost entry may be the name of the rank's wait.  Of ranks that run one program, the one that
came least far is the likely culprit (the ranks that wait have come further and wait for it), so siblings are
ordered by progress, least first; with equal progress the smaller line comes first.  The idea is STAT's
(Ahn et al., "Scalable Temporal Order Analysis for Large Scale Debugging", SC 2009).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from pytest_elastic.hang._frames import Frame, Stack, cut_harness, is_library
from pytest_elastic.hang._naming import bracket

Progress = tuple[int, ...]
Entry = Frame | str
Path = tuple[int, tuple[Entry, ...]]  # A rank and the entries of one of its stacks, or the rest of them.

_TORCH = re.compile(r"/torch/(distributed|nn/parallel|_ops|autograd|_dynamo|utils/_contextlib)")
_SHOWN = 8  # Calls of a run that are shown; the middle ones of a longer run are left out.


@dataclass(frozen=True, slots=True)
class Branch:
    """A run of calls that some ranks share.

    Attributes:
        entries: the calls, outermost first; the last may be the name of a wait.
        ranks: those that share the run, ascending.
        branches: the runs after it, least progress first; empty at the end of a stack.
        least: whether the ranks here, and no others, made the least progress.
    """

    entries: tuple[Entry, ...]
    ranks: tuple[int, ...]
    branches: tuple[Branch, ...] = ()
    least: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Its order among siblings of equal progress."""
        first = self.entries[0]
        return first.line if isinstance(first, Frame) else 0, self.ranks[0]

    def text(self) -> str:
        """One line."""
        shown = shown_calls(self.entries)
        calls = len(shown) - isinstance(self.entries[-1], str)
        if calls > _SHOWN:
            shown[1 : calls - _SHOWN + 2] = ["…"]
        line = " → ".join(shown)
        if isinstance(self.entries[-1], str) and len(shown) > 1:
            line = f"{' → '.join(shown[:-1])} {shown[-1]}"
        return f"{line} {bracket(self.ranks)}{'   ← least progress' if self.least else ''}"

    def leaves(self) -> list[Branch]:
        """The ends of stacks in it."""
        return [leaf for child in self.branches for leaf in child.leaves()] or [self]

    def marked(self, leaf: Branch) -> Branch:
        """The same with this leaf of it marked as `least`."""
        return replace(self, branches=tuple(one.marked(leaf) for one in self.branches), least=self is leaf)

    def to_json(self) -> dict[str, Any]:
        """As values that `json.dumps` takes."""
        return {
            "calls": [
                {"file": e.file, "line": e.line, "function": e.function, "native": e.native}
                for e in self.entries
                if isinstance(e, Frame)
            ],
            "waits": next((e for e in self.entries if isinstance(e, str)), ""),
            "ranks": list(self.ranks),
            "least": self.least,
            "branches": [branch.to_json() for branch in self.branches],
        }


def merge(
    stacks: Mapping[int, Sequence[Stack]],
    progress: Mapping[int, Progress] | None = None,
    waits: Mapping[int, str] | None = None,
) -> tuple[Branch, ...]:
    """One tree of all ranks' stacks, without frames of the harness.

    Args:
        stacks: by rank; other threads than the main one count where they are in the user's code.
        progress: by rank; compared to order branches and to mark the least.
        waits: by rank, the name of its main thread's wait; ranks that differ in it part there.
    """
    progress, waits = progress or {}, waits or {}
    paths: list[Path] = []
    for rank, threads in sorted(stacks.items()):
        main = main_stack(threads)
        for stack in threads:
            frames = users_frames(stack)
            if stack is main:
                word = waits.get(rank, "")
                paths.append((rank, (*frames, word) if word else frames))
            elif not all(is_library(frame.file) for frame in frames):
                paths.append((rank, frames))
    branches = grow(paths, progress)
    leaves = [leaf for branch in branches for leaf in branch.leaves()]
    leaves.sort(key=lambda leaf: least_of(leaf.ranks, progress))
    if len(leaves) < 2 or least_of(leaves[0].ranks, progress) == least_of(leaves[1].ranks, progress):
        return branches
    return tuple(branch.marked(leaves[0]) for branch in branches)


def main_stack(threads: Sequence[Stack]) -> Stack | None:
    """The stack of the thread that handled the signal, or the last of the dump; `None` if there is none."""
    return next((stack for stack in threads if stack.current), threads[-1] if threads else None)


def tree_text(branches: Sequence[Branch], indent: str = "") -> str:
    """The tree for people, with lines between parents and children."""
    lines: list[str] = []
    for branch in branches:
        lines.append(indent + branch.text())
        draw(branch, indent, lines)
    return "\n".join(lines)


def tree_dot(branches: Sequence[Branch]) -> list[str]:
    """The tree as statements of a DOT graph."""
    lines: list[str] = []
    for branch in branches:
        dot_name(branch, lines)
    return lines


def quote(text: str) -> str:
    """A DOT string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def users_frames(stack: Stack) -> tuple[Frame, ...]:
    """The frames from the user's first one to where the package is entered, without those in C."""
    frames = cut_harness(stack).frames
    inside = next((i for i, frame in enumerate(frames) if "/pytest_elastic/" in frame.file), len(frames))
    users = frames[:inside] or frames
    if inside < len(frames):  # What waits is a collective of ours, not torch's call of it.
        users = (
            users[: next((i for i, one in enumerate(users) if _TORCH.search(one.file)), len(users))] or users
        )
    return tuple(frame for frame in users if not frame.native) or users[-1:]


def shown_calls(entries: Sequence[Entry]) -> list[str]:
    """The entries in words; of several calls in libraries, one after the other, the first."""
    shown: list[str] = []
    for within, run in groupby(entries, lambda entry: isinstance(entry, Frame) and is_library(entry.file)):
        texts = [*map(entry_text, run)]
        shown += [texts[0], "…"] if within and len(texts) > 1 else texts
    return shown


def grow(paths: Sequence[Path], progress: Mapping[int, Progress]) -> tuple[Branch, ...]:
    """The branches that these paths make, least progress first."""
    groups: dict[Entry, list[Path]] = {}
    for rank, entries in paths:
        if entries:
            groups.setdefault(entries[0], []).append((rank, entries))
    branches = []
    for group in groups.values():
        shared = shared_beginning([entries for _, entries in group])
        rest = [(rank, entries[len(shared) :]) for rank, entries in group]
        branches.append(Branch(shared, tuple(sorted({rank for rank, _ in group})), grow(rest, progress)))
    return tuple(sorted(branches, key=lambda branch: (least_of(branch.ranks, progress), branch.place)))


def shared_beginning(paths: Sequence[tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """The longest beginning that all have; the name of a wait never stands among calls."""
    shortest = min(paths, key=len)
    for number, entry in enumerate(shortest):
        if any(path[number] != entry for path in paths):
            return shortest[:number]
    return shortest


def least_of(ranks: Iterable[int], progress: Mapping[int, Progress]) -> Progress:
    """The least progress of these ranks; `()` where it is not known."""
    return min((progress[rank] for rank in ranks if rank in progress), default=())


def entry_text(entry: Entry) -> str:
    """The entry in a line: `train test_x.py:12`, `barrier("done")`."""
    return entry if isinstance(entry, str) else entry.short


def draw(branch: Branch, indent: str, lines: list[str]) -> None:
    for child in branch.branches:
        last = child is branch.branches[-1]
        lines.append(f"{indent}{'└' if last else '├'} {child.text()}")
        draw(child, f"{indent}{' ' if last else '│'} ", lines)


def dot_name(branch: Branch, lines: list[str]) -> str:
    name = f"s{len(lines)}"
    label = "\n".join(map(entry_text, branch.entries))
    style = ", style=bold" if branch.least else ""
    lines.append(f"{name} [shape=box, label={quote(label)}{style}];")
    for child in branch.branches:
        lines.append(f"{name} -> {dot_name(child, lines)} [label={quote(bracket(child.ranks))}];")
    return name
