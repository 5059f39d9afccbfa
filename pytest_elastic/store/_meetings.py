"""Meetings: each member gives a call and a value, and takes those of the members that it needs.

*Rules.*  A meeting is made by the first who comes, and dropped when all its members have taken; keys and
queues do not see it.  The first line of a call is its signature, the rest its detail, for those who look
on: the fields of `CollectiveJoined`, as JSON.  Once two signatures differ the meeting has failed: whoever
waits in it or comes later gets the error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pytest_elastic.errors import CollectiveMismatch
from pytest_elastic.events import CollectiveJoined
from pytest_elastic.pristine import json
from pytest_elastic.store._operations import meeting_key

_MESSAGE = re.compile(r":(\*|\d+)>(\d+,-?\d+)#")
_SENDER, _RECEIVER = 0, 1  # Places of a message's members.

_KNOWN = 1024  # Calls whose details are kept: a loop makes the same ones again and again.

FIELDS = ("operation", "root", "reduction", "dtype", "size")
"""What the fields of a signature, separated by tabs, are."""


class Meeting:
    """One of them.

    Attributes:
        given: (call, value) of each member that has come, by its place among the members.
        needs: of each member that waits, by its waiter; and its call, where it gave that with the wait.
        taken: how many members have taken, or were told that it failed.
    """

    __slots__ = ("failed", "given", "needs", "taken")

    def __init__(self) -> None:
        self.given: dict[int, tuple[bytes, bytes]] = {}
        self.needs: dict[Any, tuple[Sequence[int], bytes]] = {}
        self.taken = 0
        self.failed = False


class Meetings:
    """Those of a store, by name.  A waiter is a `Waiter` of the state."""

    def __init__(self) -> None:
        self._meetings: dict[str, Meeting] = {}
        self._counts: dict[str, int] = {}
        # Of each destination and tag: messages that nobody receives yet, and open receives, in their order.
        self._sent: dict[str, dict[str, None]] = {}
        self._open: dict[str, dict[str, None]] = {}

    def give(
        self, name: str, count: int, place: int, call: bytes, value: bytes
    ) -> tuple[list[Any], CollectiveMismatch | None]:
        """A member comes; the waiters whom this has completed, or failed, and the member's own error.

        Raises:
            ValueError: it has come before, or there is no such place.
        """
        meeting = self._meetings.get(name)
        if not 0 <= place < count or (meeting is not None and place in meeting.given):
            raise ValueError(f"meeting {name}: there is no place {place} of {count}, or it is taken")
        if meeting is None:
            meeting = self._meetings[name] = Meeting()
            self._counts[name] = count
        elif not meeting.failed:
            first, _ = next(iter(meeting.given.values()))
            meeting.failed = call != first and signature(call) != signature(first)
        meeting.given[place] = (call, value)
        woken = self._wake(name, meeting, place)
        if ">" in name and (ends := _MESSAGE.search(name)) is not None:
            woken += self._match(name, place, ends)
        if not meeting.failed:
            return woken, None
        error = mismatch(name, meeting)
        self._taken(name, meeting)
        return woken, error

    def _match(self, name: str, place: int, ends: re.Match[str]) -> list[Any]:
        """Bind an end of a message that came: an open receive to the first message, or vice versa."""
        key = name[: ends.start()] + ends[2]
        if ends[1] == "*":
            mine, others = self._open.setdefault(key, {}), self._sent.get(key)
        elif place == _RECEIVER:
            self._sent.get(key, {}).pop(name, None)
            return []
        elif _RECEIVER in self._meetings[name].given:
            return []
        else:
            mine, others = self._sent.setdefault(key, {}), self._open.get(key)
        if not others:
            mine[name] = None
            return []
        other = next(iter(others))
        del others[other]
        return self._bind(other, name) if ends[1] == "*" else self._bind(name, other)

    def _bind(self, message: str, receive: str) -> list[Any]:
        """Let the meetings of a message and of an open receive be one; the waiters whom that completes."""
        sent, received = self._meetings[message], self._meetings[receive]
        sent.given[_RECEIVER], received.given[_SENDER] = received.given[_RECEIVER], sent.given[_SENDER]
        calls = sent.given[_SENDER][0], received.given[_RECEIVER][0]
        sent.failed = received.failed = signature(calls[0]) != signature(calls[1])
        woken = self._wake(message, sent, _RECEIVER) + self._wake(receive, received, _SENDER)
        self._taken(message, sent)
        self._taken(receive, received)
        return woken

    def _wake(self, name: str, meeting: Meeting, place: int) -> list[Any]:
        """The waiters whom this member has completed, or failed."""
        key, woken = meeting_key(name, place), []
        for waiter in meeting.needs:
            waiter.pending.pop(key, None)
            if meeting.failed or not waiter.pending:
                woken.append(waiter)
        for waiter in woken:
            self._finish(name, meeting, waiter, *meeting.needs.pop(waiter))
        return woken

    def take(self, name: str, needs: Sequence[int], waiter: Any, call: bytes = b"") -> None:
        """A member that has come, with this call right now, takes: the waiter is done at once, or waits.

        The waiter's keys are those of the needed members, in that order.
        """
        meeting = self._meetings.get(name)
        if meeting is None:
            raise ValueError(f"meeting {name}: nobody has come")
        for place, key in zip(needs, waiter.keys, strict=True):
            if place not in meeting.given:
                waiter.pending[key] = None
        if meeting.failed or not waiter.pending:
            self._finish(name, meeting, waiter, needs, call)
        else:
            meeting.needs[waiter] = needs, call

    def leave(self, waiter: Any) -> None:
        """Forget a waiter; what it gave stays."""
        if waiter.keys:
            meeting = self._meetings.get(waiter.keys[0].rpartition("/")[0])
            if meeting is not None:
                meeting.needs.pop(waiter, None)

    def call(self, name: str) -> bytes:
        """A call of the meeting, `b""` if there is none."""
        meeting = self._meetings.get(name)
        return next(iter(meeting.given.values()))[0] if meeting is not None else b""

    def signatures(self, name: str) -> frozenset[bytes]:
        """The signatures of the meeting's calls."""
        meeting = self._meetings.get(name)
        return frozenset(signature(call) for call, _ in meeting.given.values()) if meeting else frozenset()

    def waiters(self) -> list[Any]:
        """All who wait in meetings."""
        return [waiter for meeting in self._meetings.values() for waiter in meeting.needs]

    def digest(self) -> int:
        """A number that is the same for the same meetings, in this process."""
        return hash(
            frozenset((name, frozenset(one.given.items()), one.taken) for name, one in self._meetings.items())
        )

    def _finish(self, name: str, meeting: Meeting, waiter: Any, needs: Sequence[int], call: bytes) -> None:
        waiter.pending.clear()
        waiter.done = True
        if meeting.failed:
            waiter.result = mismatch(name, meeting)
        else:
            waiter.result = packed([meeting.given[place] for place in needs], call)
        self._taken(name, meeting)

    def _taken(self, name: str, meeting: Meeting) -> None:
        meeting.taken += 1
        if meeting.taken == self._counts[name]:
            del self._meetings[name], self._counts[name]


def packed(given: Sequence[tuple[bytes, bytes]], own: bytes) -> list[bytes]:
    """The answer for who needed these; nothing, if all are its own call without a value.

    Of many that are one other call without a value it is that call alone.
    """
    if given and not given[0][1] and given.count(given[0]) == len(given):
        call = given[0][0]
        if call == own:
            return []
        if len(given) > 1:
            return [call]
    return [part for one in given for part in one]


def unpacked(answer: list[bytes], needs: int, own: bytes) -> list[bytes]:
    """A call and a value for each of so many members."""
    return [answer[0] if answer else own, b""] * needs if len(answer) < 2 else answer


def signature(call: bytes) -> bytes:
    """What of a call must be alike."""
    return call.partition(b"\n")[0]


def mismatch(name: str, meeting: Meeting) -> CollectiveMismatch:
    """The error of a meeting whose calls differ."""
    group, _, number = name.rpartition("#")
    calls = {place: call for place, (call, _) in sorted(meeting.given.items())}
    kinds = Counter(map(signature, calls.values()))
    most = max(kinds.values())
    common = [kind for kind, count in kinds.items() if count == most]
    texts, rare = {}, []
    for place, call in calls.items():
        detail = detail_of(call)
        members = detail.get("members", ())
        rank = members[place] if place < len(members) else place
        where = detail.get("place")
        texts[rank] = detail.get("text", "a call") + (f" at {where}" if where else "")
        if len(common) > 1 or signature(call) != common[0]:
            rare.append(rank)
    return CollectiveMismatch(group, int(number), texts, sorted(rare), difference(list(kinds)))


def difference(signatures: Sequence[bytes]) -> str:
    """The first field in which signatures differ."""
    fields = zip(*(one.split(b"\t") for one in signatures), strict=False)
    return next((name for name, values in zip(FIELDS, fields, strict=False) if len(set(values)) > 1), "call")


@lru_cache(maxsize=_KNOWN)
def detail_of(call: bytes) -> Mapping[str, Any]:
    """The detail of a call; empty where it has none."""
    detail = call.partition(b"\n")[2]
    found: dict[str, Any] = json.loads(detail) if detail else {}
    return found


@lru_cache(maxsize=_KNOWN)
def members_of_call(call: bytes) -> tuple[int, ...]:
    """The ranks of a call's group; `()` where it does not tell."""
    return tuple(detail_of(call).get("members", ()))


def joined(
    who: tuple[float, int | None, int], name: str, place: int, call: bytes, waits: bool
) -> CollectiveJoined:
    """The event of a member that comes to a meeting."""
    group, _, number = name.rpartition("#")
    what, pairwise = _facts(call)
    fields: tuple[Any, ...] = (
        *who,
        group,
        int(number),
        members_of_call(call),
        place,
        *what,
        waits,
        *pairwise,
    )
    return CollectiveJoined(*fields)


@lru_cache(maxsize=_KNOWN)
def _facts(call: bytes) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The fields of `CollectiveJoined` from `operation` to `via`, and the last two."""
    detail = detail_of(call)
    what = (
        detail.get("operation", ""),
        detail.get("text", ""),
        signature(call).decode(),
        detail.get("root"),
        detail.get("reduction", ""),
        detail.get("dtype", ""),
        detail.get("shape", ""),
        detail.get("size", 0),
        detail.get("place", ""),
        detail.get("via", ""),
    )
    return what, (tuple(detail.get("sends", ())), tuple(detail.get("expects", ())))
