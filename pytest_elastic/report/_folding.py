"""Folding: failures, and outputs, that are one to the reader are shown once.

*Rules.*
1. Two failures are one if type, place and *shape* are equal: the first line of the text without its values,
   which are numbers, quoted strings and constants.  Each rank tells of a store's time-out in words of its
   own: of these the place alone counts.
2. Values that differ are a table: a cell for each rank, equal ones together.  The rank's own number is no
   such value, nor is what a follower says: addresses and spans.
3. A text is cut where the lines allowed end, and then names the file that has the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_elastic.report._outcome import RankEnd
from pytest_elastic.wording import number_ranks

# An address with its port, a string, a list of numbers, a number, a constant.
_VALUE = re.compile(
    r"""\[[\d.:a-fA-F]+\](?::\d+)?"""
    r"""|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
    r"""|(?<!\w)-?\d[\w.]*(?:[+-]\d+)?(?:, *-?\d[\w.]*)*|(?<=[A-Za-z_])\d+"""
    r"""|\b(?:True|False|None|nan|inf)\b"""
)
_WIDTH, _CELL, _SAID = 78, 34, 1000  # Characters of a line, of a rank's values, of what is compared.


def are_alike(one: RankEnd, other: RankEnd) -> bool:
    """Whether two failures are one to the reader."""
    if one.kind != other.kind or (one.place, one.error_type) != (other.place, other.error_type):
        return False
    if not one.crash and not other.crash:
        return one.text == other.text
    return one.error_type == "DistStoreError" or shape_of(one) == shape_of(other)


def fold_alike(ends: Iterable[RankEnd]) -> list[list[RankEnd]]:
    """The failures in groups that are alike, in the order of each one's first."""
    groups: list[list[RankEnd]] = []
    for end in ends:
        group = next((group for group in groups if are_alike(end, group[0])), None)
        groups.append([end]) if group is None else group.append(end)
    return groups


def shape_of(end: RankEnd) -> str:
    """The first line of what a failure says, without its values."""
    return _VALUE.sub("#", first_line(end))


def first_line(end: RankEnd) -> str:
    """What it says, as far as people read."""
    return end.crash.partition("\n")[0][:_SAID]


def value_table(ends: Sequence[RankEnd]) -> str:
    """What differs between failures that are alike, by rank; `""` where nothing does.

    >>> said = ["rank 0: loss 4", "rank 1: loss 4", "rank 2: loss 5"]
    >>> print(value_table([RankEnd(rank, "failed", 0.0, crash=text) for rank, text in enumerate(said)]))
    rank {rank}: loss {a}; by rank:
      0-1: 4  2: 5
    """
    said = {end.rank: first_line(end) for end in ends}
    if any(end.report is not None and end.report.follows for end in ends) or len(set(said.values())) < 2:
        return ""
    values = {rank: _VALUE.findall(line) for rank, line in said.items()}
    columns = list(zip(*values.values(), strict=False))
    own = {number for number, column in enumerate(columns) if column == tuple(map(str, values))}
    differ = [number for number, column in enumerate(columns) if len(set(column)) > 1 and number not in own]
    names = {number: f"{{{chr(ord('a') + at)}}}" for at, number in enumerate(differ[:26])}
    names |= dict.fromkeys(own, "{rank}")
    first = next(iter(said.values()))
    pieces = iter(enumerate(_VALUE.findall(first)))
    line = _VALUE.sub(lambda match: names.get(next(pieces)[0], match[0]), first)
    if not differ:
        return line
    alike: dict[str, list[int]] = {}
    for rank, found in sorted(values.items()):
        cell = ", ".join(found[number] for number in differ)
        alike.setdefault(cell if len(cell) <= _CELL else f"{cell[: _CELL - 1]}…", []).append(rank)
    return f"{line}; by rank:\n" + in_columns(
        [f"{number_ranks(ranks)}: {cell}" for cell, ranks in alike.items()]
    )


def in_columns(cells: Sequence[str]) -> str:
    """Cells in as many columns as fit into a line, row by row."""
    width = max(map(len, cells)) + 2
    count = max(1, (_WIDTH - 2) // width)
    rows = (cells[first : first + count] for first in range(0, len(cells), count))
    return "\n".join("  " + "".join(f"{cell:{width}}" for cell in row).rstrip() for row in rows)


def shorten(sections: Sequence[tuple[str, str]], most: int, rest: str) -> list[tuple[str, str]]:
    """The sections up to `most` lines in all, titles included; the last says then where the `rest` is."""
    bodies = [body.split("\n") for _, body in sections]
    if sum(len(lines) + 1 for lines in bodies) <= most:
        return list(sections)
    shown, room = [], most - 1
    for (title, _), lines in zip(sections, bodies, strict=True):
        if room > 1:
            shown.append((title, lines[: room - 1]))
            room -= 1 + len(shown[-1][1])
    left = sum(map(len, bodies)) - sum(len(lines) for _, lines in shown)
    shown[-1][1].append(f"({left} more lines: {rest})")
    return [(title, "\n".join(lines)) for title, lines in shown]


def fair_limit(lengths: Sequence[int], most: int, least: int) -> int:
    """How many lines each of several texts may have, so that all have `most`; `least` at least."""
    left, count = most, len(lengths)
    for length in sorted(lengths):
        if length * count > left:
            return max(left // count, least)
        left, count = left - length, count - 1
    return max(lengths, default=least)
