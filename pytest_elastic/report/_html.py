"""A run as one HTML page that needs nothing else: no network, no server, it opens from disk.

*Theory of operation.*  The page's skeleton, style and scripts are files of this package (`page/`); they are
put into one file together with the data, as JSON.  Strings that repeat (keys, operations) are in one table.
The page has a budget of bytes for each kind of data; where a run has more, each rank keeps its newest and
what never ended well, and the page says how much is not there.  What a rank wrote cannot end the JSON: it is
ASCII, and `<` is written as an escape.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pytest_elastic.events import LineWritten, StoreCalled
from pytest_elastic.hang import cut_harness, fold
from pytest_elastic.pristine import json
from pytest_elastic.report._picture import (
    LONGEST_KEY,
    LONGEST_LINE,
    MOST_KEYS,
    Meeting,
    Phase,
    Picture,
    Scene,
    Wait,
    compose,
    cut,
)
from pytest_elastic.wording import exit_label

_FOLDER = files("pytest_elastic.report") / "page"  # The package may be in a zip.
SCRIPTS = ("time.js", "model.js", "layout.js", "paint.js", "card.js", "lists.js", "main.js")
_CALLS, _WAITS, _LINES, _OTHERS = 3_400_000, 3_000_000, 1_500_000, 400_000  # Bytes of JSON for each kind.
_MOST_FRAMES, _MOST_THREADS, _MOST_GAPS = 60, 16, 12
_LONGEST_TEXT = 20_000

Row = list[Any]
Item = TypeVar("Item")


def write_page(path: Path, picture: Picture) -> None:
    """Write the picture as a page of less than 10 MB; `OSError` if that fails."""
    path.write_bytes(_page(picture).encode("utf-8", "xmlcharrefreplace"))


def _page(picture: Picture) -> str:
    text = (_FOLDER / "page.html").read_text(encoding="utf-8")
    scripts = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    diagnosis = picture.diagnosis or {}
    # The data come last: nothing in them is taken for a place to fill.
    for place, content in (
        ("/* style */", (_FOLDER / "style.css").read_text(encoding="utf-8")),
        ("/* script */", scripts),
        ("<!-- title -->", escape(cut(picture.title, LONGEST_LINE))),
        ("<!-- text -->", escape(cut(str(diagnosis.get("text", "")), _LONGEST_TEXT))),
        ("<!-- data -->", _json(_Packer(picture).packed())),
    ):
        before, mark, after = text.partition(place)
        assert mark, f"the page has no {place}"
        text = before + content + after
    return text


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


class _Packer:
    """Makes the rows that the page's scripts read."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._scene: Scene = compose(picture)
        self._strings: dict[str, int] = {}
        self._spent = 0  # Bytes of the strings.
        self._left_out: list[str] = []

    def packed(self) -> dict[str, Any]:
        """Everything; rows are in the order of the attributes in `model.js`."""
        scene, picture = self._scene, self._picture
        data = {
            "title": cut(picture.title, LONGEST_LINE),
            "outcome": picture.outcome,
            "diagnosis": self._diagnosis(),
            "nprocs": picture.nprocs,
            "end": self._time(scene.last),
            "gaps": self._gaps(),
            "counts": {
                "store call": len(scene.calls),
                "wait": len(scene.waits),
                "barrier": len(scene.meetings),
            },
            "starts": [[self._time(one.at), one.rank, one.pid] for one in scene.starts],
            "exits": [
                [self._time(one.at), one.rank, one.exitcode, one.text or exit_label(one.exitcode)]
                for one in scene.exits
            ],
            "stood": self._fit("states", scene.stood, _OTHERS, self._stood),
            "phases": self._fit("phases", scene.phases, _OTHERS, self._phase),
            "waits": self._fit("waits", scene.waits, _WAITS, self._wait, _badness),
            "meetings": self._fit("barriers", scene.meetings, _OTHERS, self._meeting, _incompleteness),
            "calls": self._fit("store calls", scene.calls, _CALLS, self._call, _fairness),
            "lines": self._fit("log lines", scene.lines, _LINES, self._line, _fairness),
            "stacks": self._fit("stacks", self._folded(), _OTHERS, self._stack),
        }
        return {**data, "strings": list(self._strings), "leftOut": self._left_out}

    def _fit(
        self,
        name: str,
        items: Sequence[Item],
        budget: int,
        pack: Callable[[Item], Row],
        worth: Callable[[Sequence[Item]], list[Any]] | None = None,
    ) -> list[Row]:
        """The rows of the items of most worth (the last, where it is equal), as many as fit, in order."""
        rows: dict[int, Row] = {}
        worths = worth(items) if worth else []
        for number in sorted(range(len(items)), key=lambda i: (worths[i] if worths else 0, i), reverse=True):
            before = self._spent
            row = pack(items[number])
            budget -= len(_json(row)) + 1 + self._spent - before
            if budget < 0:
                missing, total = len(items) - len(rows), len(items)
                self._left_out.append(f"{missing:,} of {total:,} {name} are not on this page")
                break
            rows[number] = row
        return [rows[number] for number in sorted(rows)]

    def _gaps(self) -> list[Row]:
        """The longest spans between two events, of all events: what is left out was not quiet."""
        moments = sorted(self._time(event.at) for event in self._picture.events)
        longest = sorted(pairwise(moments), key=lambda span: span[0] - span[1])[:_MOST_GAPS]
        return [list(span) for span in longest]

    def _diagnosis(self) -> dict[str, str] | None:
        said = self._picture.diagnosis
        if said is None:
            return None
        return {name: cut(str(said.get(name, "")), _LONGEST_TEXT) for name in ("verdict", "cause", "text")}

    def _wait(self, wait: Wait) -> Row:
        began, ended, by = wait.began, wait.ended, wait.by
        name = self._string(began.name)
        timeout = began.timeout if math.isfinite(began.timeout) else None
        ended_row = [self._time(ended.at), ended.how] if ended else None
        by_row = [self._time(by.at), by.rank, self._string(getattr(by, "name", "barrier"))] if by else None
        asked = [self._keys(began.keys), len(began.keys), self._keys(began.missing), len(began.missing)]
        place = [self._time(began.at), began.rank, began.client]
        writers = sorted(set(began.writers))
        return [*place, name, *asked, timeout, int(began.may_timeout), ended_row, by_row, writers]

    def _phase(self, phase: Phase) -> Row:
        ended = phase.ended
        said = [ended.outcome, cut(ended.text, LONGEST_LINE), ended.place] if ended else ["", "", ""]
        until = self._time(ended.at) if ended else None
        return [self._time(phase.began.at), phase.began.rank, phase.began.phase, until, *said]

    def _stood(self, one: Any) -> Row:
        return [self._time(one.at), one.rank, one.state, one.channel, cut(one.peer, LONGEST_LINE)]

    def _meeting(self, meeting: Meeting) -> Row:
        joins = [[self._time(join.at), join.rank, join.client] for join in meeting.joins]
        prefix = self._string(cut(meeting.prefix, LONGEST_KEY))
        return [joins[0][0], prefix, meeting.expected, int(meeting.complete), joins, meeting.absent]

    def _call(self, call: StoreCalled) -> Row:
        keys = [self._keys(call.keys), len(call.keys)]
        return [
            self._time(call.at),
            call.rank,
            call.client,
            self._string(call.name),
            *keys,
            int(call.changed),
        ]

    def _line(self, line: LineWritten) -> Row:
        stream = int(line.stream == "stderr")
        return [self._time(line.at), line.rank, stream, cut(line.text, LONGEST_LINE)]

    def _folded(self) -> list[Any]:
        users = {rank: [cut_harness(one) for one in stacks] for rank, stacks in self._picture.stacks.items()}
        return [one for one in fold(users) if one[1]]

    def _stack(self, folded: Any) -> Row:
        ranks, stacks = folded
        first = sorted(stacks, key=lambda stack: not stack.current)[:_MOST_THREADS]
        threads = [
            [
                [cut(frame.file, LONGEST_LINE), frame.line, cut(frame.function, LONGEST_KEY)]
                for frame in stack.frames[-_MOST_FRAMES:]
            ]
            for stack in first
        ]
        outer = [max(0, len(stack.frames) - _MOST_FRAMES) for stack in first]
        return [ranks, threads, outer, len(stacks) - len(first)]

    def _keys(self, keys: tuple[str, ...]) -> list[int]:
        return [self._string(cut(key, LONGEST_KEY)) for key in keys[:MOST_KEYS]]

    def _string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self._strings)
            self._spent += len(_json(text)) + 1
        return self._strings[text]

    def _time(self, at: float) -> float:
        """Microseconds from the first event, to a tenth."""
        return round((at - self._scene.first) * 1e6, 1)


def _fairness(events: Sequence[Any]) -> list[int]:
    """Each rank's newest are worth most, so that one rank's many do not cost another its few."""
    seen: Counter[int | None] = Counter()
    worths = []
    for event in reversed(events):
        seen[event.rank] += 1
        worths.append(-seen[event.rank])
    return worths[::-1]


def _badness(waits: Sequence[Wait]) -> list[bool]:
    return [not wait.good for wait in waits]


def _incompleteness(meetings: Sequence[Meeting]) -> list[bool]:
    return [not meeting.complete for meeting in meetings]
