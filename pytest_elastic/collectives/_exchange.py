"""Exchanges: a plan carried out, by a meeting and then the real operation, or what was given there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from pytest_elastic.collectives._c10d_table import Parcels, Plan
from pytest_elastic.collectives._call import find_place
from pytest_elastic.collectives._meeting import Answers, Meeting
from pytest_elastic.collectives._payload import Parcel, pack
from pytest_elastic.collectives._reduction import reduce
from pytest_elastic.collectives._torch_group import Group
from pytest_elastic.collectives._work import PendingWork, RootedWork, done_work

Real = Callable[[], Any]
"""Runs the real operation; its answer."""

_SLICED = 256 * 2**10


def work_in(answer: Any) -> Any:
    """The work in the answer of an operation: the answer, or its last part."""
    return dist.Work.unbox(answer[-1] if isinstance(answer, tuple) else answer)


def run(group: Group, plan: Plan, real: Real, result: Any) -> Any:
    """Do what the plan says.

    Returns:
        The real operation's answer, or a work.

    Raises:
        CollectiveMismatch, CollectiveTimeout: as `Meeting.meet`; of an asynchronous call at its wait.
    """
    __tracebackhide__ = True
    seconds = plan.seconds or group.seconds
    if group.size == 1 and not group.carried:
        return real()
    name = f"{group.name}#{next(group.numbers)}"
    call = group.encode(plan.call, find_place())
    rooted = plan.root is not None and not group.carried
    needs = group.everybody if rooted else group.needs(plan.root, plan.gathers)
    meeting = Meeting(group.context, name, group.members, group.index, needs, call)
    value = pack(group.context, plan.gifts, group.size) if group.carried and plan.gifts else b""
    if rooted:
        meeting.post()
        return _kept(group, RootedWork(meeting, work_in(real()), result, seconds))
    if not plan.asynchronous:
        answers = meeting.meet(seconds, value)
        _compare(meeting, plan, answers)
        if not group.carried:
            return real()
        if _is_big(plan.whole):
            _sum_up_slices(group, plan, meeting, answers, value)
        else:
            _finish(group, plan, answers)
        return done_work()
    meeting.post(value)
    inner = None if group.carried else work_in(real())

    def finish(limit: float | None) -> None:
        __tracebackhide__ = True
        answers = meeting.meet(seconds if limit is None else limit)
        _compare(meeting, plan, answers)
        if group.carried:
            _finish(group, plan, answers)

    return _kept(group, PendingWork(finish, inner, result))


def _kept(group: Group, work: PendingWork) -> PendingWork:
    group.keep(work)
    return work


def _compare(meeting: Meeting, plan: Plan, answers: Answers) -> None:
    __tracebackhide__ = True
    if plan.call.sends or plan.call.expects:
        meeting.compare_sizes(answers)


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


def _is_big(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.numel() * tensor.element_size() > _SLICED


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
