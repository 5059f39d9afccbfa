"""The stacks of all ranks as one prefix tree.

*Theory.*  Ranks mostly run the same program, so their stacks share their outer calls; where they part is what
one wants to see.  A node is a run of calls that a set of ranks has in common, up to where the set splits;
the innermost entry may be a word on what the rank waits for.  Of ranks that run one program, the one that
came least far is the likely culprit (the ranks that wait have come further and wait for it), so siblings are
ordered by progress, least first; with equal progress the smaller line comes first.  The idea is STAT's
(Ahn et al., "Scalable Temporal Order Analysis for Large Scale Debugging", SC 2009).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pytest_elastic.hang._frames import Frame, Stack, cut_harness
from pytest_elastic.hang._naming import bracket

Progress = tuple[int, ...]
Entry = Frame | str

_OURS = re.compile(r"/pytest_elastic/")
_LIBRARY = re.compile(r"/(site-packages|dist-packages|lib/python3\.\d+)/|^<frozen ")
_SHOWN = 3  # Calls of a run that are shown; the middle ones of a longer run are left out.


@dataclass(frozen=True, slots=True)
class Branch:
    """A run of calls that some ranks share.

    Attributes:
        entries: the calls, outermost first, and at the end perhaps what is waited for, in words.
        ranks: who is there, ascending.
        branches: where they part, least progress first; empty at the end of a stack.
        least: whether the ranks here, and no others, came least far.
    """

    entries: tuple[Entry, ...]
    ranks: tuple[int, ...]
    branches: tuple[Branch, ...] = ()
    least: bool = False

    def text(self) -> str:
        """One line."""
        shown: list[str] = [_entry_text(entry) for entry in self.entries]
        calls = len(shown) - isinstance(self.entries[-1], str)
        if calls > _SHOWN:
            shown[1 : calls - _SHOWN + 1] = ["…"]
        line = " → ".join(shown)
        if isinstance(self.entries[-1], str) and len(shown) > 1:
            line = f"{' → '.join(shown[:-1])} {shown[-1]}"
        return f"{line} {bracket(self.ranks)}{'   ← least progress' if self.least else ''}"

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
        stacks: by rank; those of threads other than the main one count where they are in the user's code.
        progress: by rank, how far it came; what is compared.
        waits: by rank, what the main thread waits for; ranks that differ in it part there.
    """
    paths: list[tuple[int, tuple[Entry, ...]]] = []
    for rank, threads in sorted(stacks.items()):
        for stack in _worth_showing(threads):
            word = (waits or {}).get(rank, "") if stack is main_stack(threads) else ""
            entries: tuple[Entry, ...] = (*_users(stack), *([word] if word else []))
            if entries:
                paths.append((rank, entries))
    branches = _grow(paths, progress or {})
    return _mark(branches, progress or {})


def main_stack(threads: Sequence[Stack]) -> Stack | None:
    """The one that handled the signal, or the last one of the dump; `None` if there is none."""
    return next((stack for stack in threads if stack.current), threads[-1] if threads else None)


def tree_text(branches: Sequence[Branch], indent: str = "") -> str:
    """The tree for people, with lines between parents and children."""
    lines: list[str] = []
    for branch in branches:
        lines.append(indent + branch.text())
        _draw(branch, indent, lines)
    return "\n".join(lines)


def tree_dot(branches: Sequence[Branch]) -> list[str]:
    """The tree as statements of a DOT graph."""
    lines: list[str] = []
    for branch in branches:
        _dot(branch, lines)
    return lines


def quote(text: str) -> str:
    """A DOT string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _worth_showing(threads: Sequence[Stack]) -> list[Stack]:
    main = main_stack(threads)
    found = [main] if main is not None else []
    for stack in threads:
        users = [frame for frame in _users(stack) if not _LIBRARY.search(frame.file)]
        if stack is not main and users:
            found.append(stack)
    return found


def _users(stack: Stack) -> tuple[Frame, ...]:
    """The frames from the user's first one to where the package is entered; of those in C, the innermost."""
    frames = cut_harness(stack).frames
    inside = next((i for i, frame in enumerate(frames) if _OURS.search(frame.file)), len(frames))
    users = frames[:inside] or frames
    return (*(frame for frame in users[:-1] if not frame.native), *users[-1:])


def _grow(paths: list[tuple[int, tuple[Entry, ...]]], progress: Mapping[int, Progress]) -> tuple[Branch, ...]:
    """The branches that these paths make; a path is a rank and the rest of its entries."""
    groups: dict[Entry, list[tuple[int, tuple[Entry, ...]]]] = {}
    for rank, entries in paths:
        if entries:
            groups.setdefault(entries[0], []).append((rank, entries))
    branches = [_branch(group, progress) for group in groups.values()]
    return tuple(sorted(branches, key=lambda branch: (_progress(branch.ranks, progress), _place(branch))))


def _branch(group: list[tuple[int, tuple[Entry, ...]]], progress: Mapping[int, Progress]) -> Branch:
    shared = _shared([entries for _, entries in group])
    ranks = tuple(sorted({rank for rank, _ in group}))
    rest = [(rank, entries[len(shared) :]) for rank, entries in group]
    return Branch(shared, ranks, _grow(rest, progress))


def _shared(paths: list[tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """The longest beginning that all have; what a wait is called never stands among calls."""
    shortest = min(paths, key=len)
    for number, entry in enumerate(shortest):
        if any(path[number] != entry for path in paths):
            return shortest[:number]
    return shortest


def _progress(ranks: Iterable[int], progress: Mapping[int, Progress]) -> Progress:
    return min((progress[rank] for rank in ranks if rank in progress), default=())


def _place(branch: Branch) -> tuple[int, int]:
    first = branch.entries[0]
    return (first.line if isinstance(first, Frame) else 0, branch.ranks[0])


def _mark(branches: tuple[Branch, ...], progress: Mapping[int, Progress]) -> tuple[Branch, ...]:
    """Mark the one leaf whose ranks came less far than all others."""
    leaves = [leaf for branch in branches for leaf in _leaves(branch)]
    leaves.sort(key=lambda leaf: _progress(leaf.ranks, progress))
    if len(leaves) < 2 or _progress(leaves[0].ranks, progress) == _progress(leaves[1].ranks, progress):
        return branches
    return tuple(_with_mark(branch, leaves[0]) for branch in branches)


def _leaves(branch: Branch) -> list[Branch]:
    if not branch.branches:
        return [branch]
    return [leaf for child in branch.branches for leaf in _leaves(child)]


def _with_mark(branch: Branch, leaf: Branch) -> Branch:
    children = tuple(_with_mark(child, leaf) for child in branch.branches)
    return Branch(branch.entries, branch.ranks, children, branch is leaf)


def _entry_text(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry
    return f"{entry.function} {PurePath(entry.file).name}" + (f":{entry.line}" if entry.line else "")


def _draw(branch: Branch, indent: str, lines: list[str]) -> None:
    for child in branch.branches:
        last = child is branch.branches[-1]
        lines.append(f"{indent}{'└' if last else '├'} {child.text()}")
        _draw(child, f"{indent}{' ' if last else '│'} ", lines)


def _dot(branch: Branch, lines: list[str]) -> str:
    name = f"s{len(lines)}"
    label = "\n".join(map(_entry_text, branch.entries))
    style = ", style=bold" if branch.least else ""
    lines.append(f"{name} [shape=box, label={quote(label)}{style}];")
    for child in branch.branches:
        lines.append(f"{name} -> {_dot(child, lines)} [label={quote(bracket(child.ranks))}];")
    return name
