"""A run as Chrome trace JSON, for Perfetto (ui.perfetto.dev) and its kin.

One process, named after the test; a thread for each rank, and one more for each further connection of a rank
that waits (its waits may overlap the first one's, and slices of one thread must nest).  Times are
microseconds from the first event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pytest_elastic.hang import GroupCall
from pytest_elastic.pristine import json
from pytest_elastic.report._timeline import (
    LONGEST_KEY,
    LONGEST_LINE,
    MOST_KEYS,
    PhaseSpan,
    RunHistory,
    WaitSpan,
    cut,
    name_of_call,
    timeline_of,
)
from pytest_elastic.wording import exit_label

_PID = 1
_INSIDE = 0.001  # Microseconds before a wait's end: an arrow binds to the slice that encloses its head.

Record = dict[str, Any]


def trace_of(history: RunHistory) -> bytes:
    """All events of the run as a trace; very long texts are cut."""
    diagnosis = history.diagnosis or {}
    said = {name: str(diagnosis.get(name, "")) for name in ("verdict", "cause", "text")}
    records = TraceRecords(history)
    trace = {
        "displayTimeUnit": "ms",
        "otherData": {"outcome": history.outcome, **said, "collectives": records.usage()},
        "traceEvents": list(records.records()),
    }
    return json.dumps(trace, separators=(",", ":")).encode("ascii")


def shown_keys(keys: tuple[str, ...]) -> list[str]:
    more = [f"… and {len(keys) - MOST_KEYS:,} more"] if len(keys) > MOST_KEYS else []
    return [cut(key, LONGEST_KEY) for key in keys[:MOST_KEYS]] + more


def call_name(operation: str, keys: tuple[str, ...]) -> str:
    return f"{operation} {keys[0][:80] if keys else ''}{' …' if len(keys) > 1 else ''}".strip()


class TraceRecords:
    """The records of one run."""

    def __init__(self, history: RunHistory) -> None:
        self._history, self._timeline = history, timeline_of(history)
        self._exits = {one.rank: one.at for one in self._timeline.exits}
        self._threads = {rank: f"rank {rank}" for rank in range(history.nprocs)}
        self._calls = {call.name: call for call in self._timeline.group_calls}
        self._first_client: dict[int | None, int] = {}
        self._further: dict[tuple[int | None, int], int] = {}

    def usage(self) -> list[Record]:
        """Calls, bytes and time of each operation of each process group."""
        return [one.to_json() for one in self._timeline.usage()]

    def records(self) -> Iterator[Record]:
        """Slices and moments; the names of threads come last, when all are known."""
        yield from map(self.phase_slice, self._timeline.phases)
        for number, wait in enumerate(self._timeline.waits):
            yield from self.wait_records(number, wait)
        yield from self.moments()
        yield {"ph": "M", "pid": _PID, "name": "process_name", "args": {"name": self._history.title}}
        for thread, name in self._threads.items():
            place = {"ph": "M", "pid": _PID, "tid": thread}
            yield {**place, "name": "thread_name", "args": {"name": name}}
            yield {**place, "name": "thread_sort_index", "args": {"sort_index": thread}}

    def phase_slice(self, phase: PhaseSpan) -> Record:
        ended = phase.ended
        until = ended.at if ended else self.end_of(phase.began.rank)
        said = {"outcome": ended.outcome, "text": ended.text, "place": ended.place} if ended else {}
        args = said or {"outcome": "never ended"}
        return self.slice(self.thread_of(phase.began.rank), phase.began.phase, phase.began.at, until, args)

    def wait_records(self, number: int, wait: WaitSpan) -> Iterator[Record]:
        began, ended = wait.began, wait.ended
        thread = self.client_thread(began.rank, began.client)
        until = ended.at if ended else self.end_of(began.rank)
        args = {
            "keys": shown_keys(began.keys),
            "missing": shown_keys(began.missing),
            "timeout": began.timeout if math.isfinite(began.timeout) else "none",
            "how": ended.how if ended else "never ended",
        }
        call = self._calls.get(name_of_call(began))
        name = call_name(began.name, began.keys)
        if call is not None:
            name, args = f"{call.title}, {call.spec}".removesuffix(", "), {**self.call_args(call), **args}
        yield self.slice(thread, name, began.at, until, args)
        if wait.by:
            arrow = {"name": "released", "cat": "store", "id": number, "pid": _PID}
            head = max(self.time(began.at), self.time(until) - _INSIDE)
            yield {
                **arrow,
                "ph": "s",
                "tid": self.thread_of(wait.by.rank),
                "ts": self.time(wait.by.at),
            }
            yield {**arrow, "ph": "f", "bp": "e", "tid": thread, "ts": head}

    def call_args(self, call: GroupCall) -> Record:
        """What is said of a call of a process group."""
        came = {f"rank {rank}": f"{one.text} at {one.place}" for rank, one in call.calls.items()}
        first, last = call.first.at, max(one.at for one in call.calls.values())
        return {
            "group": call.group,
            "number": call.number,
            "bytes": call.first.size,
            "joined": came,
            "absent": self._timeline.absent(call, self._history.nprocs),
            "first to last (us)": self.time(last) - self.time(first),
        }

    def moments(self) -> Iterator[Record]:
        for start in self._timeline.starts:
            yield self.moment(start.rank, "started", start.at, {"pid": start.pid})
        for call in self._timeline.calls:
            args = {"keys": shown_keys(call.keys), "client": call.client, "changed": call.changed}
            yield self.moment(call.rank, call_name(call.name, call.keys), call.at, args)
        for meeting in self._timeline.meetings:
            for join in meeting.joins:
                name = f"barrier {meeting.prefix} {join.count}/{meeting.expected}"
                yield self.moment(join.rank, name, join.at, {"absent": meeting.absent})
        for group_call in self._timeline.group_calls:
            for one in group_call.calls.values():
                yield self.moment(one.rank, group_call.title, one.at, self.call_args(group_call))
        for line in self._timeline.lines:
            yield self.moment(line.rank, line.text[:80], line.at, {line.stream: cut(line.text, LONGEST_LINE)})
        for stood in self._timeline.stood:
            args = {"channel": stood.channel, "peer": stood.peer}
            yield self.moment(stood.rank, stood.state, stood.at, args)
        for end in self._timeline.exits:
            yield self.moment(
                end.rank, end.text or exit_label(end.exitcode), end.at, {"exitcode": end.exitcode}
            )

    def moment(self, rank: int | None, name: str, at: float, args: Record) -> Record:
        place = {"pid": _PID, "tid": self.thread_of(rank), "ts": self.time(at)}
        return {"ph": "i", "s": "t", "name": name, **place, "args": args}

    def slice(self, thread: int, name: str, at: float, until: float, args: Record) -> Record:
        ts = self.time(at)
        span = {"ts": ts, "dur": round(self.time(until) - ts, 3)}
        return {"ph": "X", "name": name, "pid": _PID, "tid": thread, **span, "args": args}

    def thread_of(self, rank: int | None) -> int:
        """The rank's thread; events of no rank have the one after the last."""
        if rank is not None:
            return rank
        self._threads.setdefault(self._history.nprocs, "launcher")
        return self._history.nprocs

    def client_thread(self, rank: int | None, client: int) -> int:
        if self._first_client.setdefault(rank, client) == client:
            return self.thread_of(rank)
        thread = self._further.setdefault((rank, client), self._history.nprocs + 1 + len(self._further))
        self._threads.setdefault(thread, f"rank {rank}, connection {client}")
        return thread

    def end_of(self, rank: int | None) -> float:
        """The end of a slice without one: the rank's exit, or the last event."""
        return self._exits.get(rank, self._timeline.last)

    def time(self, at: float) -> float:
        return round((at - self._timeline.first) * 1e6, 3)
