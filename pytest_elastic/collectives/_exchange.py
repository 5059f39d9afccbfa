"""Exchanges: an operation of the table, done by a meeting and then the real one, or what was given there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from pytest_elastic.collectives._c10d_table import TABLE, Parcels, Plan
from pytest_elastic.collectives._call import find_place
from pytest_elastic.collectives._gloo_needs import may_wait_first, needs_in_gloo
from pytest_elastic.collectives._meeting import Answers, Meeting
from pytest_elastic.collectives._payload import Parcel, pack
from pytest_elastic.collectives._reduction import reduce
from pytest_elastic.collectives._torch_group import Group, types_of
from pytest_elastic.collectives._work import PendingWork, done_work

Real = Callable[[], Any]
"""Runs the real operation; its answer."""

_SLICED = 256 * 2**10
_OURS = 4  # Frames from `_known` to the kernel, whoever calls that.


def work_in(answer: Any) -> Any:
    """The work in the answer of an operation: the answer, or its last part."""
    return dist.Work.unbox(answer[-1] if isinstance(answer, tuple) else answer)


class Known(NamedTuple):
    """What is known of a call from one place with tensors of the same types, however often it is made.

    Attributes:
        call: as bytes.
        needs: whom it waits for, where it is checked.
        waits_first: whether it may wait for them before it starts.
        pairwise: whether sizes must fit in pairs.
        asynchronous: whether the caller waits later.
        seconds: its timeout.
    """

    call: bytes
    needs: tuple[int, ...]
    waits_first: bool
    pairwise: bool
    asynchronous: bool
    seconds: float


def run(group: Group, operation: str, arguments: Sequence[Any], real: Real) -> Any:
    """Do an operation of the table.

    Returns:
        The real operation's answer, or a work.

    Raises:
        CollectiveMismatch, CollectiveTimeout: as `Meeting.meet`; of an asynchronous call at its wait.
    """
    __tracebackhide__ = True
    if group.carried:
        return _carry(group, operation, arguments)
    if group.size == 1:
        return real()
    known = _known(group, operation, arguments)
    meeting = _meeting(group, known, known.needs)
    if known.waits_first and not known.asynchronous:
        _compare(meeting, known, meeting.wait(known.seconds, b""))
        return real()
    meeting.post()
    inner = work_in(real())

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        _compare(meeting, known, meeting.wait(known.seconds if limit is None else limit))

    return _kept(group, PendingWork(finish, inner, arguments[0]))


def _carry(group: Group, operation: str, arguments: Sequence[Any]) -> Any:
    __tracebackhide__ = True
    plan = TABLE[operation](group, *arguments)
    known = _known(group, operation, arguments)
    meeting = _meeting(group, known, group.needs(plan.root, plan.gathers))
    value = pack(group.context, plan.gifts, group.size) if plan.gifts else b""
    if not known.asynchronous:
        found = meeting.wait(known.seconds, value)
        _compare(meeting, known, found)
        answers = meeting.answers(found)
        if _is_shared(group, plan.whole):
            _sum_up_slices(group, plan, meeting, answers, value)
        else:
            _finish(group, plan, answers)
        return done_work()
    meeting.post(value)

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        found = meeting.wait(known.seconds if limit is None else limit)
        _compare(meeting, known, found)
        _finish(group, plan, meeting.answers(found))

    return _kept(group, PendingWork(finish, None, arguments[0]))


def _known(group: Group, operation: str, arguments: Sequence[Any]) -> Known:
    place = find_place(_OURS)

    def find() -> Known:
        plan = TABLE[operation](group, *arguments)
        call, seconds = plan.call, group.seconds if plan.seconds is None else plan.seconds
        needs, first = group.everybody, True
        device = call.tensors[0].device if call.tensors else "cpu"
        if f"{device}:gloo" in group.backends:
            who = call, group.size, group.index, plan.root
            needs, first = needs_in_gloo(*who), may_wait_first(*who)
        elif plan.root is not None:
            needs = ()  # It may go early, or not.
        pairwise = bool(call.sends or call.expects)
        encoded = call.encode(group.members, place)
        return Known(encoded, needs, first, pairwise, plan.asynchronous, seconds)

    return group.known((operation, place, types_of(arguments)), find)


def _meeting(group: Group, known: Known, needs: Sequence[int]) -> Meeting:
    name = f"{group.name}#{next(group.numbers)}"
    return Meeting(group.context, name, group.members, group.index, needs, known.call)


def _kept(group: Group, work: PendingWork) -> PendingWork:
    group.keep(work)
    return work


def _compare(meeting: Meeting, known: Known, found: Sequence[bytes]) -> None:
    __tracebackhide__ = True
    if known.pairwise:
        meeting.compare_sizes(meeting.answers(found))


def _finish(group: Group, plan: Plan, answers: Answers) -> None:
    parcels = open_parcels(group, answers)
    with torch.no_grad():
        plan.finish(parcels)
    for parcel in parcels.values():
        parcel.close()


def open_parcels(group: Group, answers: Answers, me: int | None = None) -> Parcels:
    """What the others gave; `me` is this member's place, if it is another one than in the group."""
    me = group.index if me is None else me
    return {place: Parcel(value, me) for place, (_, value) in answers.items()}


def _is_shared(group: Group, tensor: torch.Tensor | None) -> bool:
    """Whether all members see a tensor in the memory of its giver, and it is worth a second meeting."""
    size = 0 if tensor is None else tensor.numel() * tensor.element_size()
    return size > max(_SLICED, group.context.inline)


def _sum_up_slices(group: Group, plan: Plan, meeting: Meeting, answers: Answers, value: bytes) -> None:
    """Reduce a big tensor: each member one slice, where the others can see it.

    That moves three times its size for each member, instead of `group.size` times.
    """
    __tracebackhide__ = True
    tensor = plan.whole
    assert tensor is not None
    flat = tensor.detach().view(-1)
    cuts = [flat.numel() * place // group.size for place in range(group.size + 1)]
    begin, end = cuts[group.index], cuts[group.index + 1]
    step = b'\n{"members": %s}' % str(list(group.members)).encode()
    parcels = open_parcels(group, answers) | {group.index: Parcel(value, group.index)}
    wholes = [parcels[place].tensor(0, tensor.dtype) for place in range(group.size)]
    with torch.no_grad():
        reduce(plan.call.reduction, [one[begin:end] for one in wholes], wholes[group.index][begin:end])
        second = Meeting(group.context, f"{meeting.name}/2", group.members, group.index, meeting.needs, step)
        second.meet(plan.seconds or group.seconds, b"")
        for place, whole in enumerate(wholes):
            flat[cuts[place] : cuts[place + 1]].copy_(whole[cuts[place] : cuts[place + 1]])
    for parcel in parcels.values():
        parcel.close()
