"""Reductions: tensors of many members into one, in the members' order, so that each run has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "SUM": torch.add,
    "AVG": torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "BAND": torch.bitwise_and,
    "BOR": torch.bitwise_or,
    "BXOR": torch.bitwise_xor,
}


@cache
def _names() -> dict[int, str]:
    members: Any = dist.ReduceOp.RedOpType.__members__
    return {int(value): name for name, value in members.items()}


def reduction_name(op: Any) -> str:
    """The name of a `ReduceOp`, as torch's operations get it."""
    number = op._get_method("op")()  # What `op.op()` does, which looks for a property of that name first.
    return _names()[number]


def reduce(name: str, parts: Sequence[torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """The parts, reduced, in a new tensor or in `out`, which may be one of the parts.

    Raises:
        RuntimeError: a reduction that only NCCL has; gloo raises the same.
    """
    binary = _BINARY.get(name)
    if binary is None:
        allowed = ", ".join(_BINARY)
        raise RuntimeError(f"a carried group has no reduction {name}; it has {allowed}")
    total = parts[0].clone() if len(parts) == 1 else binary(parts[0], parts[1])
    if len(parts) > 1 and total.dtype != parts[0].dtype:
        total = total.to(parts[0].dtype)
    for part in parts[2:]:
        binary(total, part, out=total)
    if name == "AVG":
        total = total.div_(len(parts), rounding_mode=None if total.is_floating_point() else "trunc")
    return total if out is None else out.copy_(total)
