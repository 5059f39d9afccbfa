"""A run as Chrome trace JSON, for Perfetto (ui.perfetto.dev) and its kin.

One process, named after the test; a thread for each rank, and one more for each further connection of a rank
that waits (its waits may overlap the first one's, and slices of one thread must nest).  Times are
microseconds from the first event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_elastic.pristine import json
from pytest_elastic.report._picture import (
    LONGEST_KEY,
    LONGEST_LINE,
    MOST_KEYS,
    Phase,
    Picture,
    Scene,
    Wait,
    compose,
    cut,
)
from pytest_elastic.wording import exit_label

_PID = 1
_INSIDE = 0.001  # Microseconds before a wait's end: an arrow binds to the slice that encloses its head.

Record = dict[str, Any]


def write_trace(path: Path, picture: Picture) -> None:
    """Write the picture's events as a trace: all of them, very long texts cut; `OSError` if that fails."""
    scene = compose(picture)
    trace = {
        "displayTimeUnit": "ms",
        "otherData": {"outcome": picture.outcome, **_diagnosis(picture)},
        "traceEvents": list(_Trace(picture, scene).records()),
    }
    path.write_text(json.dumps(trace, separators=(",", ":")), encoding="ascii")


def _diagnosis(picture: Picture) -> dict[str, str]:
    return {name: str((picture.diagnosis or {}).get(name, "")) for name in ("verdict", "cause", "text")}


def _keys(keys: tuple[str, ...]) -> list[str]:
    more = [f"… and {len(keys) - MOST_KEYS:,} more"] if len(keys) > MOST_KEYS else []
    return [cut(key, LONGEST_KEY) for key in keys[:MOST_KEYS]] + more


def _name(operation: str, keys: tuple[str, ...]) -> str:
    return f"{operation} {keys[0][:80] if keys else ''}{' …' if len(keys) > 1 else ''}".strip()


class _Trace:
    """The records of one scene."""

    def __init__(self, picture: Picture, scene: Scene) -> None:
        self._picture, self._scene = picture, scene
        self._exits = {one.rank: one.at for one in scene.exits}
        self._threads = {rank: f"rank {rank}" for rank in range(picture.nprocs)}
        self._first_client: dict[int | None, int] = {}
        self._further: dict[tuple[int | None, int], int] = {}

    def records(self) -> Iterator[Record]:
        """All of them; the names come last, when the threads are known."""
        yield from map(self._phase, self._scene.phases)
        for number, wait in enumerate(self._scene.waits):
            yield from self._wait(number, wait)
        yield from self._moments()
        yield {"ph": "M", "pid": _PID, "name": "process_name", "args": {"name": self._picture.title}}
        for thread, name in self._threads.items():
            place = {"ph": "M", "pid": _PID, "tid": thread}
            yield {**place, "name": "thread_name", "args": {"name": name}}
            yield {**place, "name": "thread_sort_index", "args": {"sort_index": thread}}

    def _phase(self, phase: Phase) -> Record:
        ended = phase.ended
        until = ended.at if ended else self._end(phase.began.rank)
        said = {"outcome": ended.outcome, "text": ended.text, "place": ended.place} if ended else {}
        args = said or {"outcome": "never ended"}
        return self._slice(self._thread(phase.began.rank), phase.began.phase, phase.began.at, until, args)

    def _wait(self, number: int, wait: Wait) -> Iterator[Record]:
        began, ended = wait.began, wait.ended
        thread = self._client_thread(began.rank, began.client)
        until = ended.at if ended else self._end(began.rank)
        args = {
            "keys": _keys(began.keys),
            "missing": _keys(began.missing),
            "timeout": began.timeout if math.isfinite(began.timeout) else "none",
            "how": ended.how if ended else "never ended",
        }
        yield self._slice(thread, _name(began.name, began.keys), began.at, until, args)
        if wait.by:
            arrow = {"name": "released", "cat": "store", "id": number, "pid": _PID}
            head = max(self._time(began.at), self._time(until) - _INSIDE)
            yield {**arrow, "ph": "s", "tid": self._thread(wait.by.rank), "ts": self._time(wait.by.at)}
            yield {**arrow, "ph": "f", "bp": "e", "tid": thread, "ts": head}

    def _moments(self) -> Iterator[Record]:
        for start in self._scene.starts:
            yield self._moment(start.rank, "started", start.at, {"pid": start.pid})
        for call in self._scene.calls:
            args = {"keys": _keys(call.keys), "client": call.client, "changed": call.changed}
            yield self._moment(call.rank, _name(call.name, call.keys), call.at, args)
        for meeting in self._scene.meetings:
            for join in meeting.joins:
                name = f"barrier {meeting.prefix} {join.count}/{meeting.expected}"
                yield self._moment(join.rank, name, join.at, {"absent": meeting.absent})
        for line in self._scene.lines:
            yield self._moment(
                line.rank, line.text[:80], line.at, {line.stream: cut(line.text, LONGEST_LINE)}
            )
        for stood in self._scene.stood:
            args = {"channel": stood.channel, "peer": stood.peer}
            yield self._moment(stood.rank, stood.state, stood.at, args)
        for end in self._scene.exits:
            yield self._moment(
                end.rank, end.text or exit_label(end.exitcode), end.at, {"exitcode": end.exitcode}
            )

    def _moment(self, rank: int | None, name: str, at: float, args: Record) -> Record:
        place = {"pid": _PID, "tid": self._thread(rank), "ts": self._time(at)}
        return {"ph": "i", "s": "t", "name": name, **place, "args": args}

    def _slice(self, thread: int, name: str, at: float, until: float, args: Record) -> Record:
        ts = self._time(at)
        span = {"ts": ts, "dur": round(self._time(until) - ts, 3)}
        return {"ph": "X", "name": name, "pid": _PID, "tid": thread, **span, "args": args}

    def _thread(self, rank: int | None) -> int:
        """The rank's thread; what is about no rank has the one after the last."""
        if rank is not None:
            return rank
        self._threads.setdefault(self._picture.nprocs, "launcher")
        return self._picture.nprocs

    def _client_thread(self, rank: int | None, client: int) -> int:
        if self._first_client.setdefault(rank, client) == client:
            return self._thread(rank)
        thread = self._further.setdefault((rank, client), self._picture.nprocs + 1 + len(self._further))
        self._threads.setdefault(thread, f"rank {rank}, connection {client}")
        return thread

    def _end(self, rank: int | None) -> float:
        """Until when what has no end goes on: the rank's exit, or the last event."""
        return self._exits.get(rank, self._scene.last)

    def _time(self, at: float) -> float:
        return round((at - self._scene.first) * 1e6, 3)
