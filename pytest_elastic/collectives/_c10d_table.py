"""The table of c10d operations: what each calls, what it gives to whom, and what it does with what it gets.

A row is a function of the arguments of torch's operation that gives a `Plan`.  The process group is left out,
and a reduction is its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_elastic.collectives._call import Call
from pytest_elastic.collectives._payload import Gift, Parcel
from pytest_elastic.collectives._reduction import reduce
from pytest_elastic.collectives._torch_group import Group, tensors_of

Tensors = Sequence[torch.Tensor]
Parcels = dict[int, Parcel]
Finish = Callable[[Parcels], None]


@dataclass
class Plan:
    """One call of an operation.

    Attributes:
        call: what is compared, and shown.
        finish: what is done with what the others gave, by their places.
        gifts: what this member gives.
        asynchronous: whether the caller waits later.
        seconds: the operation's own timeout, `None` for the group's.
        root: place of the root among the members.
        gathers: whether the root waits for the others, and not the others for it.
        whole: a tensor that is summed up by slices, where it is big.
    """

    call: Call
    finish: Finish
    gifts: list[Gift] = field(default_factory=list)
    asynchronous: bool = True
    seconds: float | None = None
    root: int | None = None
    gathers: bool = False
    whole: torch.Tensor | None = None


TABLE: dict[str, Callable[..., Plan]] = {}


def row(plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """A row of the table, named as torch's operation."""
    TABLE[plan.__name__] = plan
    return plan


def _fill(out: torch.Tensor, flat: torch.Tensor) -> None:
    out.detach().copy_(flat.reshape(out.shape))


def _to_all(group: Group, tensors: Tensors) -> list[Gift]:
    return [Gift(one, group.everybody) for one in tensors] if group.carried else []


def _to_each(group: Group, tensors: Tensors) -> list[Gift]:
    """The i-th tensor is for the i-th member."""
    return [Gift(one, () if place == group.index else (place,)) for place, one in enumerate(tensors)]


def _parts(group: Group, parcels: Parcels, number: int, mine: torch.Tensor) -> list[torch.Tensor]:
    """A tensor of each member, flat, in the members' order; this one's is `mine`."""
    return [
        mine.detach().reshape(-1) if place == group.index else parcels[place].tensor(number, mine.dtype)
        for place in range(group.size)
    ]


def _sizes(tensors: Tensors) -> tuple[int, ...]:
    return tuple(one.numel() for one in tensors)


def _given(times: Sequence[Any]) -> tuple[bool, int]:
    """Whether a call is asynchronous, and its timeout; trailing defaults are left out."""
    return (times[0] if times else True), (times[1] if len(times) > 1 else -1)


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds >= 0 else None


# All to all, reduced.


def _reducing(group: Group, call: Call, tensors: Tensors, asynchronous: bool, timeout: int) -> Plan:
    def finish(parcels: Parcels) -> None:
        for number, one in enumerate(tensors):
            _fill(one, reduce(call.reduction, _parts(group, parcels, number, one)))

    return Plan(call, finish, _to_all(group, tensors), asynchronous, _seconds(timeout))


@row
def allreduce_(
    group: Group, tensors: Tensors, op: str, sparse: Any, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    call = Call("all_reduce", tensors_of(tensors), reduction=op)
    if tensors and tensors[0].layout is not torch.strided:
        return _sparse(group, call, tensors[0], asynchronous, timeout)
    plan = _reducing(group, call, tensors, asynchronous, timeout)
    plan.whole = tensors[0] if len(tensors) == 1 and tensors[0].is_contiguous() else None
    return plan


@row
def allreduce_coalesced_(
    group: Group, tensors: Tensors, op: str, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    call = Call("all_reduce_coalesced", tensors_of(tensors), reduction=op)
    return _reducing(group, call, tensors, asynchronous, timeout)


def _sparse(group: Group, call: Call, tensor: torch.Tensor, asynchronous: bool, timeout: int) -> Plan:
    if group.carried and call.reduction != "SUM":
        raise RuntimeError(f"sparse tensors can be reduced by SUM, not by {call.reduction}")
    mine = tensor.detach().coalesce()
    indices, values = mine.indices(), mine.values()

    def finish(parcels: Parcels) -> None:
        total = torch.sparse_coo_tensor(indices[:, :0], values[:0], mine.shape)
        for place in range(group.size):
            if place == group.index:
                total = total + mine
                continue
            where = parcels[place].tensor(0, indices.dtype).reshape(indices.shape[0], -1)
            what = parcels[place].tensor(1, values.dtype).reshape(-1, *values.shape[1:])
            total = total + torch.sparse_coo_tensor(where.clone(), what.clone(), mine.shape)
        tensor.copy_(total.coalesce())  # A detached one would get new indices for itself.

    return Plan(call, finish, _to_all(group, [indices, values]), asynchronous, _seconds(timeout))


@row
def reduce_scatter_(
    group: Group, outs: Tensors, ins: Any, op: str, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    call = Call(
        "reduce_scatter",
        tensors_of(outs),
        reduction=op,
        sends=_sizes(ins[0]),
        expects=(outs[0].numel(),) * group.size,
    )

    def finish(parcels: Parcels) -> None:
        parts = [
            ins[0][place].detach().reshape(-1)
            if place == group.index
            else parcels[place].tensor(group.index, outs[0].dtype)
            for place in range(group.size)
        ]
        _fill(outs[0], reduce(op, parts))

    return Plan(call, finish, _to_each(group, ins[0]), asynchronous, _seconds(timeout))


def _reduce_scatter(
    group: Group, call: Call, outs: Tensors, ins: Tensors, asynchronous: bool, timeout: int
) -> Plan:
    def finish(parcels: Parcels) -> None:
        for number, (out, one) in enumerate(zip(outs, ins, strict=True)):
            begin = group.index * out.numel()
            parts = [part[begin : begin + out.numel()] for part in _parts(group, parcels, number, one)]
            _fill(out, reduce(call.reduction, parts))

    return Plan(call, finish, _to_all(group, ins), asynchronous, _seconds(timeout))


@row
def _reduce_scatter_base_(
    group: Group,
    out: torch.Tensor,
    one: torch.Tensor,
    op: str,
    asynchronous: bool = True,
    timeout: int = -1,
) -> Plan:
    call = Call("reduce_scatter_tensor", tensors_of([one]), reduction=op)
    return _reduce_scatter(group, call, [out], [one], asynchronous, timeout)


@row
def reduce_scatter_tensor_coalesced_(
    group: Group, outs: Tensors, ins: Tensors, op: str, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    call = Call("reduce_scatter_tensor", tensors_of(ins), reduction=op)
    return _reduce_scatter(group, call, outs, ins, asynchronous, timeout)


# All to all.


@row
def allgather_(group: Group, outs: Any, ins: Tensors, asynchronous: bool = True, timeout: int = -1) -> Plan:
    def finish(parcels: Parcels) -> None:
        for number, one in enumerate(ins):
            for place, part in enumerate(_parts(group, parcels, number, one)):
                _fill(outs[number][place], part)

    call = Call("all_gather", tensors_of(ins))
    if len(ins) == 1:
        call = call._replace(sends=_sizes(ins) * group.size, expects=_sizes(outs[0]))
    return Plan(call, finish, _to_all(group, ins), asynchronous, _seconds(timeout))


@row
def allgather_coalesced_(group: Group, outs: Any, ins: Tensors, asynchronous: bool = True) -> Plan:
    def finish(parcels: Parcels) -> None:
        for number, one in enumerate(ins):
            for place, part in enumerate(_parts(group, parcels, number, one)):
                _fill(outs[place][number], part)

    call = Call("all_gather_coalesced", tensors_of(ins))
    return Plan(call, finish, _to_all(group, ins), asynchronous)


def _gather_into(group: Group, outs: Tensors, ins: Tensors, asynchronous: bool, timeout: int = -1) -> Plan:
    def finish(parcels: Parcels) -> None:
        for number, (out, one) in enumerate(zip(outs, ins, strict=True)):
            whole = out.detach()
            flat = whole.view(-1) if whole.is_contiguous() else torch.empty_like(whole).reshape(-1)
            for place, part in enumerate(_parts(group, parcels, number, one)):
                flat[place * one.numel() : (place + 1) * one.numel()].copy_(part)
            if not whole.is_contiguous():
                _fill(out, flat)

    call = Call("all_gather_into_tensor", tensors_of(ins))
    return Plan(call, finish, _to_all(group, ins), asynchronous, _seconds(timeout))


@row
def _allgather_base_(
    group: Group, out: torch.Tensor, one: torch.Tensor, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    return _gather_into(group, [out], [one], asynchronous, timeout)


@row
def allgather_into_tensor_coalesced_(
    group: Group, outs: Tensors, ins: Tensors, asynchronous: bool = True
) -> Plan:
    return _gather_into(group, outs, ins, asynchronous)


@row
def alltoall_(
    group: Group, outs: Tensors, ins: Tensors, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    def finish(parcels: Parcels) -> None:
        for place, out in enumerate(outs):
            mine = place == group.index
            part = ins[place].detach() if mine else parcels[place].tensor(group.index, out.dtype)
            _fill(out, part)

    call = Call("all_to_all", tensors_of(ins), sends=_sizes(ins), expects=_sizes(outs))
    return Plan(call, finish, _to_each(group, ins), asynchronous, _seconds(timeout))


@row
def alltoall_base_(
    group: Group,
    out: torch.Tensor,
    one: torch.Tensor,
    out_splits: Sequence[int],
    in_splits: Sequence[int],
    *times: Any,
) -> Plan:
    sends, expects = _split(group, one, in_splits), _split(group, out, out_splits)
    outs, ins = out.detach(), one.detach().contiguous().reshape(-1)
    flat = outs.view(-1) if outs.is_contiguous() else torch.empty_like(outs).reshape(-1)

    def finish(parcels: Parcels) -> None:
        at = 0
        for place, size in enumerate(expects):
            mine = place == group.index
            part = pieces[place] if mine else parcels[place].tensor(group.index, out.dtype)
            flat[at : at + size].copy_(part)
            at += size
        if not outs.is_contiguous():
            _fill(out, flat)

    pieces = list(torch.split(ins, sends)) if sum(sends) == ins.numel() else [ins[:0]] * group.size
    call = Call("all_to_all_single", tensors_of([one]), sends=tuple(sends), expects=tuple(expects))
    asynchronous, timeout = _given(times)
    return Plan(call, finish, _to_each(group, pieces), asynchronous, _seconds(timeout))


def _split(group: Group, tensor: torch.Tensor, rows: Sequence[int]) -> list[int]:
    """Elements for each member."""
    if not rows:
        return [tensor.numel() // group.size] * group.size
    width = tensor.numel() // tensor.size(0) if tensor.dim() and tensor.size(0) else 0
    return [count * width for count in rows]


@row
def barrier(group: Group, tensor: Any, devices: Any, asynchronous: bool = True, timeout: int = -1) -> Plan:
    return Plan(Call("barrier"), lambda parcels: None, [], asynchronous, _seconds(timeout))


@row
def monitored_barrier_(group: Group, tensor: Any, devices: Any, timeout: int, wait_all: bool) -> Plan:
    return Plan(Call("monitored_barrier"), lambda parcels: None, [], False, _seconds(timeout))


# With a root.


@row
def broadcast_(
    group: Group, tensors: Tensors, root: int, root_tensor: int, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    def finish(parcels: Parcels) -> None:
        if root != group.index:
            for number, one in enumerate(tensors):
                _fill(one, parcels[root].tensor(number, one.dtype))

    call = Call("broadcast", tensors_of(tensors), root=group.member(root))
    gifts = _to_all(group, tensors) if root == group.index else []
    return Plan(call, finish, gifts, asynchronous, _seconds(timeout), root)


@row
def reduce_(
    group: Group,
    tensors: Tensors,
    op: str,
    root: int,
    root_tensor: int,
    *times: Any,
) -> Plan:
    def finish(parcels: Parcels) -> None:
        if root == group.index:
            for number, one in enumerate(tensors):
                _fill(one, reduce(op, _parts(group, parcels, number, one)))

    call = Call("reduce", tensors_of(tensors), root=group.member(root), reduction=op)
    gifts = [] if root == group.index else [Gift(one, (root,)) for one in tensors]
    asynchronous, timeout = _given(times)
    return Plan(call, finish, gifts, asynchronous, _seconds(timeout), root, gathers=True)


@row
def gather_(
    group: Group, outs: Any, ins: Tensors, root: int, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    mine = root == group.index

    def finish(parcels: Parcels) -> None:
        if mine:
            for place, part in enumerate(_parts(group, parcels, 0, ins[0])):
                _fill(outs[0][place], part)

    call = Call("gather", tensors_of(ins), root=group.member(root))
    gifts = [] if mine else [Gift(one, (root,)) for one in ins]
    return Plan(call, finish, gifts, asynchronous, _seconds(timeout), root, gathers=True)


@row
def scatter_(
    group: Group, outs: Tensors, ins: Any, root: int, asynchronous: bool = True, timeout: int = -1
) -> Plan:
    mine = root == group.index

    def finish(parcels: Parcels) -> None:
        _fill(outs[0], ins[0][root] if mine else parcels[root].tensor(group.index, outs[0].dtype))

    call = Call("scatter", tensors_of(outs), root=group.member(root))
    gifts = _to_each(group, ins[0]) if mine else []
    return Plan(call, finish, gifts, asynchronous, _seconds(timeout), root)
