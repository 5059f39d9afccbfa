"""Messages: the k-th `send` and `recv` of a pair and tag meet; a `recv` from any source takes the first.

*Rules.*  A message's meeting is named `f"{group}:{source}>{destination},{tag}#{k}"`, with ranks of the
product; the sender is its first member.  Both wait for each other, as gloo's do even for few bytes.  An
open receive has `*` for the source; the store binds it to the first message that fits.  While one is open
the numbers of later receives are not known, so that these come to their meetings when they are waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_elastic.collectives._call import Call, Place, find_place
from pytest_elastic.collectives._exchange import Real, open_parcels, work_in
from pytest_elastic.collectives._meeting import Answers, Meeting
from pytest_elastic.collectives._payload import Gift, pack
from pytest_elastic.collectives._torch_group import Group, tensors_of, types_of
from pytest_elastic.collectives._work import PendingWork, done_work
from pytest_elastic.store import detail_of

SENDER, RECEIVER = 0, 1
_BLOCKING = frozenset({"send", "recv"})

Tensors = Sequence[torch.Tensor]


def send(group: Group, tensors: Tensors, peer: int, tag: int, real: Real) -> Any:
    """Send to a member."""
    __tracebackhide__ = True
    place = find_place()
    meeting = _meeting(group, tensors, (group.index, peer), tag, place)
    value = pack(group.context, [Gift(one, (RECEIVER,)) for one in tensors], 2) if group.carried else b""
    return _exchange(group, meeting, place, value, lambda answers: None, real)


def receive(group: Group, tensors: Tensors, peer: int, tag: int, real: Real) -> Any:
    """Receive from a member."""
    __tracebackhide__ = True
    place = find_place()

    def fill(answers: Answers) -> None:
        _fill(group, tensors, answers)

    if not group.open[tag]:
        meeting = _meeting(group, tensors, (peer, group.index), tag, place)
        return _exchange(group, meeting, place, b"", fill, real)
    inner = None if group.carried else work_in(real())

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        late = _meeting(group, tensors, (peer, group.index), tag, place)
        fill(late.meet(group.seconds if limit is None else limit, b""))

    work = PendingWork(finish, inner, tensors, peer)
    group.keep(work)
    return work


def receive_any(group: Group, tensors: Tensors, tag: int, real: Real) -> Any:
    """Receive from whoever sends first."""
    __tracebackhide__ = True
    members = (-1, group.members[group.index])
    name = f"{group.name}:*>{members[RECEIVER]},{tag}"
    call = Call("recv", tensors_of(tensors), peer=-1).encode(members, find_place())
    meeting = Meeting(group.context, f"{name}#{group.count(name)}", members, RECEIVER, (SENDER,), call)
    meeting.post()
    group.open[tag] += 1
    inner = None if group.carried else work_in(real())

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        answers = meeting.meet(group.seconds if limit is None else limit)
        source, _ = detail_of(answers[SENDER][0])["members"]
        group.open[tag] -= 1
        group.count(_pair(group, (group.members.index(source), group.index), tag))
        work.source = group.members.index(source)
        _fill(group, tensors, answers)

    work = PendingWork(finish, inner, tensors)
    group.keep(work)
    return work


def _pair(group: Group, ends: tuple[int, int], tag: int) -> str:
    sender, receiver = (group.member(end) for end in ends)
    return f"{group.name}:{sender}>{receiver},{tag}"


def _meeting(group: Group, tensors: Tensors, ends: tuple[int, int], tag: int, place: Place) -> Meeting:
    """This end of the next message of a pair."""
    pair, members = _pair(group, ends, tag), tuple(group.member(end) for end in ends)
    mine = SENDER if ends[SENDER] == group.index else RECEIVER
    operation = "send" if mine == SENDER else "recv"

    def encode() -> bytes:
        return Call(operation, tensors_of(tensors), peer=members[1 - mine]).encode(members, place)

    encoded = group.known((operation, members, place, types_of(tensors)), encode)
    return Meeting(group.context, f"{pair}#{group.count(pair)}", members, mine, (1 - mine,), encoded)


def _exchange(
    group: Group,
    meeting: Meeting,
    place: Place,
    value: bytes,
    fill: Callable[[Answers], None],
    real: Real,
) -> Any:
    """Meet the other end, now if the user's call blocks, else at the wait."""
    __tracebackhide__ = True
    if _BLOCKING & set(place.functions):
        fill(meeting.meet(group.seconds, value))
        return done_work() if group.carried else real()
    meeting.post(value)
    inner = None if group.carried else work_in(real())

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        fill(meeting.meet(group.seconds if limit is None else limit))

    work = PendingWork(finish, inner, None, meeting.index)
    group.keep(work)
    return work


def _fill(group: Group, tensors: Tensors, answers: Answers) -> None:
    """Fill the tensors with what came, if it came this way."""
    if not group.carried:
        return
    ((_, value),) = answers.values()
    parcel = open_parcels(group, {SENDER: (b"", value)}, RECEIVER)[SENDER]
    with torch.no_grad():
        for number, one in enumerate(tensors):
            one.detach().copy_(parcel.tensor(number, one.dtype).reshape(one.shape))
    parcel.close()
