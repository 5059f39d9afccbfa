"""Calls: what one rank calls in one collective, as the signature that must be alike and as what people read.

A call travels as bytes: the signature, a new line, and a detail in JSON.  The signature has five fields,
separated by tabs: operation, root, reduction, dtypes, sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from pytest_elastic.pristine import json, os

Sizes = tuple[int, ...]


class Tensor(NamedTuple):
    """The type of a tensor; `size` is its number of elements."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    itemsize: int
    device: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{'' if self.device == 'cpu' else f' {self.device}'}"


class Call(NamedTuple):
    """What a rank calls.

    Attributes:
        operation: its name in torch, such as `"all_reduce"`.
        tensors: those that all ranks must have alike.
        root: as a rank of the product; `None` where there is none.
        reduction: such as `"SUM"`.
        sends, expects: elements for and from each member, where sizes must fit in pairs; else `()`.
        peer: of a message, as a rank of the product.
        what: what else must be alike, such as the ranks of a new group.
    """

    operation: str
    tensors: tuple[Tensor, ...] = ()
    root: int | None = None
    reduction: str = ""
    sends: Sizes = ()
    expects: Sizes = ()
    peer: int | None = None
    what: str = ""

    def signature(self) -> str:
        """What must be alike in the calls that meet."""
        pairwise = self.sends or self.expects
        sizes = "" if pairwise else self.what or ",".join(str(one.size) for one in self.tensors)
        operation = "message" if self.peer is not None else self.operation
        dtypes = ",".join(dict.fromkeys(one.dtype for one in self.tensors))
        return "\t".join(
            (operation, "" if self.root is None else str(self.root), self.reduction, dtypes, sizes)
        )

    def text(self) -> str:
        """The call as people read it: `all_reduce(float32[4], SUM)`."""
        inner = [str(one) for one in self.tensors[:_SHOWN]]
        if len(self.tensors) > _SHOWN:
            inner.append(f"{len(self.tensors) - _SHOWN} more")
        inner += [self.what] if self.what else []
        inner += [self.reduction] if self.reduction else []
        if self.root is not None:
            inner.append(f"{'to' if self.operation in _TO else 'from'} {self.root}")
        if self.peer is not None:
            inner.append(f"{'to' if self.operation == 'send' else 'from'} {self.peer}")
        return f"{self.operation}({', '.join(inner)})"

    def encode(self, members: Sequence[int], place: Place) -> bytes:
        """The call's bytes; the detail has the fields of the event `CollectiveJoined`."""
        detail = {
            "members": list(members),
            "operation": self.operation,
            "text": self.text(),
            "root": self.root,
            "reduction": self.reduction,
            "dtype": ", ".join(dict.fromkeys(one.dtype for one in self.tensors)),
            "shape": ", ".join(str(list(one.shape)) for one in self.tensors),
            "size": sum(one.size * one.itemsize for one in self.tensors),
            "place": place.line,
            "via": place.via,
        }
        pairwise = {"sends": self.sends, "expects": self.expects} if self.sends or self.expects else {}
        return f"{self.signature()}\n{json.dumps(detail | pairwise)}".encode()


_SHOWN = 4
_TO = frozenset({"reduce", "gather"})


# Places.


class Place(NamedTuple):
    """Where the user's code called.

    Attributes:
        line: `file:line`, `""` where no frame is the user's.
        via: the function of torch's that was called there.
        functions: torch's functions between there and the operation, innermost first.
    """

    line: str
    via: str
    functions: tuple[str, ...] = ()


_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_owners: dict[str, str] = {}  # By file: a code would be hashed with all that it has.


def find_place(ours: int = 1) -> Place:
    """The innermost frame of the caller's stack that is neither torch's nor ours.

    Args:
        ours: how many of the innermost frames are known to be ours.
    """
    at: FrameType | None = sys._getframe(ours)
    functions: list[str] = []
    while at is not None:
        code = at.f_code
        file = code.co_filename
        owner = _owners.get(file)
        if owner is None:
            owner = _owners[file] = _owner(file)
        if owner == "user":
            return _place(file, at.f_lineno, tuple(functions))
        if owner == "torch" and code.co_name not in _WRAPPING:
            functions.append(code.co_name)
        at = at.f_back
    return Place("", functions[-1] if functions else "", tuple(functions))


@lru_cache(maxsize=1024)
def _place(file: str, line: int, functions: tuple[str, ...]) -> Place:
    """One object for all calls from there: the hashes of its texts are known."""
    return Place(f"{file}:{line}", functions[-1] if functions else "", functions)


_WRAPPING = frozenset({"wrapper", "decorate_context", "__call__", "_call_impl", "_wrapped_call_impl", "_fn"})


def _owner(file: str) -> str:
    """Whose a file is: "ours", "torch" with what it generates and wraps in, or "user"."""
    if file.startswith(_OURS):
        return "ours"
    torch: Any = sys.modules.get("torch")
    inside = os.path.dirname(torch.__file__) + os.sep if torch is not None else "<"
    return "torch" if file.startswith((inside, "<")) or file.endswith("typing_extensions.py") else "user"
