"""A run as one HTML page, which opens from disk without a network or a server.

*Theory of operation.*  The page's skeleton, style and scripts are files of this package (`page/`); they are
put into one file together with the data, as JSON.  Strings that repeat (keys, operations) are in one table.
The page has a budget of bytes for each kind of data; where a run has more, each rank keeps its newest and
those that never ended well, and the page says how many are left out.  A line of a rank cannot end the JSON:
it is ASCII, and `<` is written as an escape.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import Any, TypeVar

from pytest_elastic.events import LineWritten, StoreCalled
from pytest_elastic.hang import (
    GroupCall,
    Stack,
    cut_harness,
    fold,
    is_ours,
    key_name,
    place_name,
    short_place,
)
from pytest_elastic.pristine import json
from pytest_elastic.report._timeline import (
    LONGEST_KEY,
    LONGEST_LINE,
    MOST_KEYS,
    Meeting,
    PhaseSpan,
    RunHistory,
    Timeline,
    WaitSpan,
    cut,
    timeline_of,
)
from pytest_elastic.wording import exit_label

_QUOTES = re.compile(r'"(.*)"', re.DOTALL)
_FOLDER = files("pytest_elastic.report") / "page"  # The package may be in a zip.
SCRIPTS = (
    "time.js",
    "model.js",
    "layout.js",
    "paint.js",
    "dense.js",
    "card.js",
    "lists.js",
    "failure.js",
    "find.js",
    "main.js",
)
_CALLS, _WAITS, _LINES, _OTHERS = 3_400_000, 3_000_000, 1_500_000, 400_000  # Bytes of JSON for each kind.
_COLLECTIVES, _MOST_USAGE = 1_000_000, 100  # Bytes of JSON; rows of the table.
_MOST_FRAMES, _MOST_THREADS, _MOST_GAPS = 60, 16, 12
_LONGEST_TEXT, _MOST_SECTIONS = 20_000, 20

Row = list[Any]
Item = TypeVar("Item")


def page_of(history: RunHistory) -> bytes:
    """The run as one HTML page of less than 10 MB."""
    text = (_FOLDER / "page.html").read_text(encoding="utf-8")
    scripts = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    diagnosis = history.diagnosis or {}
    # The data come last: nothing in them is taken for a place to fill.
    for place, content in (
        ("/* style */", (_FOLDER / "style.css").read_text(encoding="utf-8")),
        ("/* script */", scripts),
        ("<!-- title -->", escape(cut(history.title, LONGEST_LINE))),
        ("<!-- text -->", escape(cut(str(diagnosis.get("text", "")), _LONGEST_TEXT))),
        ("<!-- data -->", _json(Packer(history).packed())),
    ):
        before, mark, after = text.partition(place)
        assert mark, f"the page has no {place}"
        text = before + content + after
    return text.encode("utf-8", "xmlcharrefreplace")


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # Hundred thousands of times.


def _json(value: Any) -> str:
    return _encode(value).replace("<", "\\u003c")


class Packer:
    """The page's data, as rows that its scripts read."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._timeline: Timeline = timeline_of(history)
        self._strings: dict[str, int] = {}
        self._spent = 0  # Bytes of the strings.
        self._names: dict[int, str] = {}  # Of keys that belong to a barrier or collective.
        self._left_out: list[str] = []

    def packed(self) -> dict[str, Any]:
        """All data; rows are in the order of the attributes in `model.js`."""
        timeline, history = self._timeline, self._history
        data = {
            "title": cut(history.title, LONGEST_LINE),
            "outcome": history.outcome,
            "diagnosis": self.diagnosis(),
            "failure": self.failure(),
            "replay": cut(history.replay, _LONGEST_TEXT),
            "environment": [[cut(one, LONGEST_LINE) for one in row] for row in history.environment],
            "root": history.root,
            "nprocs": history.nprocs,
            "end": self.time(timeline.last),
            "gaps": self.gaps(),
            "counts": {
                "store call": len(timeline.calls),
                "wait": len(timeline.waits),
                "barrier": len(timeline.meetings),
            }
            | ({"collective": len(timeline.group_calls)} if timeline.group_calls else {}),
            "starts": [[self.time(one.at), one.rank, one.pid] for one in timeline.starts],
            "exits": [
                [self.time(one.at), one.rank, one.exitcode, one.text or exit_label(one.exitcode)]
                for one in timeline.exits
            ],
            "stood": self.fit("states", timeline.stood, _OTHERS, self.stood_row),
            "phases": self.fit("phases", timeline.phases, _OTHERS, self.phase_row),
            "waits": self.fit("waits", timeline.waits, _WAITS, self.wait_row, badness),
            "meetings": self.fit(
                "barriers", timeline.meetings, _COLLECTIVES, self.meeting_row, incompleteness
            ),
            "collectives": self.fit(
                "collectives", timeline.group_calls, _COLLECTIVES, self.call_of_group_row
            ),
            "usage": [
                [one.operation, one.group, one.calls, one.size, one.waited * 1e6, one.spread * 1e6, one.late]
                for one in timeline.usage()[:_MOST_USAGE]
            ],
            "calls": self.fit("store calls", timeline.calls, _CALLS, self.call_row, recency),
            "lines": self.fit("log lines", timeline.lines, _LINES, self.line_row, recency),
            "stacks": self.fit("stacks", self.folded_stacks(), _OTHERS, self.stack_row),
        }
        return {**data, "strings": list(self._strings), "names": self._names, "leftOut": self._left_out}

    def failure(self) -> dict[str, Any] | None:
        """What the test's report says; `None` of a test that has passed."""
        failure = self._history.failure
        if failure is None:
            return None
        texts = {name: cut(getattr(failure, name), _LONGEST_TEXT) for name in ("headline", "summary", "text")}
        sections = [[cut(one, _LONGEST_TEXT) for one in section] for section in failure.sections]
        return {**texts, "culprits": list(failure.culprits), "sections": sections[:_MOST_SECTIONS]}

    def fit(
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

    def gaps(self) -> list[Row]:
        """The longest spans without any event, those that are left out included."""
        moments = sorted(self.time(event.at) for event in self._history.events)
        longest = sorted(pairwise(moments), key=lambda span: span[0] - span[1])[:_MOST_GAPS]
        return [list(span) for span in longest]

    def diagnosis(self) -> dict[str, str] | None:
        said = self._history.diagnosis
        if said is None:
            return None
        return {name: cut(str(said.get(name, "")), _LONGEST_TEXT) for name in ("verdict", "cause", "text")}

    def wait_row(self, wait: WaitSpan) -> Row:
        began, ended, by = wait.began, wait.ended, wait.by
        name = self.string(began.name)
        timeout = began.timeout if math.isfinite(began.timeout) else None
        ended_row = [self.time(ended.at), ended.how] if ended else None
        by_row = [self.time(by.at), by.rank, self.string(getattr(by, "name", "barrier"))] if by else None
        asked = [
            self.keys(began.keys),
            len(began.keys),
            self.keys(began.missing),
            len(began.missing),
        ]
        for key in (*began.keys[:MOST_KEYS], *began.missing[:MOST_KEYS]):
            if (named := key_name(key)) != f'"{key}"':
                self._names[self.string(cut(key, LONGEST_KEY))] = cut(quoted(named), LONGEST_KEY)
        place = [self.time(began.at), began.rank, began.client]
        writers = sorted(set(began.writers))
        return [*place, name, *asked, timeout, int(began.may_timeout), ended_row, by_row, writers]

    def phase_row(self, phase: PhaseSpan) -> Row:
        ended = phase.ended
        said = [ended.outcome, cut(ended.text, LONGEST_LINE), ended.place] if ended else ["", "", ""]
        until = self.time(ended.at) if ended else None
        return [self.time(phase.began.at), phase.began.rank, phase.began.phase, until, *said]

    def stood_row(self, one: Any) -> Row:
        return [self.time(one.at), one.rank, one.state, one.channel, cut(one.peer, LONGEST_LINE)]

    def meeting_row(self, meeting: Meeting) -> Row:
        joins = [[self.time(join.at), join.rank, join.client] for join in meeting.joins]
        prefix = self.string(cut(meeting.prefix, LONGEST_KEY))
        title = self.string(quoted(place_name(cut(meeting.prefix, LONGEST_KEY))))
        return [joins[0][0], prefix, title, meeting.expected, int(meeting.complete), joins, meeting.absent]

    def call_of_group_row(self, call: GroupCall) -> Row:
        joins = [
            [
                self.time(join.at),
                join.rank,
                join.client,
                self.string(cut(f"{join.text} at {short_place(join.place)}", LONGEST_KEY)),
            ]
            for join in call.calls.values()
        ]
        absent = self._timeline.absent(call, self._history.nprocs)
        title = [self.string(cut(one, LONGEST_KEY)) for one in (call.name, call.title, call.spec)]
        expected = len(call.members) or self._history.nprocs
        return [joins[0][0], *title, expected, int(not (absent or call.difference)), joins, absent]

    def call_row(self, call: StoreCalled) -> Row:
        keys = [self.keys(call.keys), len(call.keys)]
        return [
            self.time(call.at),
            call.rank,
            call.client,
            self.string(call.name),
            *keys,
            int(call.changed),
        ]

    def line_row(self, line: LineWritten) -> Row:
        stream = int(line.stream == "stderr")
        return [self.time(line.at), line.rank, stream, cut(line.text, LONGEST_LINE)]

    def folded_stacks(self) -> list[Any]:
        users = {rank: [own(one) for one in stacks] for rank, stacks in self._history.stacks.items()}
        return [one for one in fold(users) if one[1]]

    def stack_row(self, folded: Any) -> Row:
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

    def keys(self, keys: tuple[str, ...]) -> list[int]:
        return [self.string(cut(key, LONGEST_KEY)) for key in keys[:MOST_KEYS]]

    def string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self._strings)
            self._spent += len(_json(text)) + 1
        return self._strings[text]

    def time(self, at: float) -> float:
        """Microseconds from the first event, to a tenth."""
        return round((at - self._timeline.first) * 1e6, 1)


def own(stack: Stack) -> Stack:
    """The stack without the harness around it, and without our calls in the middle of it and at its end."""
    cut = cut_harness(stack)
    frames = tuple(frame for frame in cut.frames if not is_ours(frame.file))
    return Stack(frames, cut.current) if frames else cut


def quoted(name: str) -> str:
    """The name of a key or barrier, with the page's quotes."""
    return _QUOTES.sub("“\\1”", name)


def recency(events: Sequence[Any]) -> list[int]:
    """The worth of events: each rank's newest lead, so that a busy rank does not displace the others."""
    seen: Counter[int | None] = Counter()
    worths = []
    for event in reversed(events):
        seen[event.rank] += 1
        worths.append(-seen[event.rank])
    return worths[::-1]


def badness(waits: Sequence[WaitSpan]) -> list[bool]:
    """The worth of waits: those whose keys did not come lead."""
    return [not wait.good for wait in waits]


def incompleteness(meetings: Sequence[Meeting]) -> list[bool]:
    """The worth of barriers: those where a rank is absent lead."""
    return [not meeting.complete for meeting in meetings]
