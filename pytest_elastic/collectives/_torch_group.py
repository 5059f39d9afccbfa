"""Groups: the identity of torch's process groups, their numbering, and their members as our ranks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed.distributed_c10d as c10d

from pytest_elastic.collectives._call import Tensor
from pytest_elastic.collectives._rank_context import RankContext
from pytest_elastic.pristine import threading

_KEPT = 64

Found = TypeVar("Found")


class Group:
    """One process group, as one of its members sees it.

    Attributes:
        name: alike in all members: `"world"`, or torch's name with the members, `"1[0,2]"`.
        members: ranks of the product, in the group's order.
        index: this rank's place among them; `everybody`: the others'.
        carried: whether the data goes through the store.
        seconds: the group's timeout.
        numbers: of the group's calls.
        counts: of the calls that are numbered apart: messages by pair, groups that were made.
        open: how many receives from any source are not bound yet, by tag.
        works: asynchronous calls; torch's C++ keeps no Python object alive.
        backends: torch's, by device: `"cpu:gloo,cuda:nccl"`; `""` where they are not known.
    """

    def __init__(
        self,
        context: RankContext,
        name: str,
        members: Sequence[int],
        index: int,
        carried: bool,
        seconds: float,
    ) -> None:
        self.context, self.name, self.members, self.index = context, name, tuple(members), index
        self.carried, self.seconds, self.size = carried, seconds, len(self.members)
        self.everybody = tuple(place for place in range(self.size) if place != index)
        self.numbers = itertools.count()
        self.counts, self.open = Counter[Any](), Counter[int]()
        self.lock = threading.Lock()
        self.works: list[Any] = []
        self.backends = ""
        self._known: dict[Hashable, Any] = {}

    def member(self, place: int) -> int:
        """The rank of the product at a place of the group.

        Raises:
            RuntimeError: there is no such place, in words like gloo's.
        """
        if not 0 <= place < self.size:
            raise RuntimeError(f"invalid rank {place}: group {self.name} has ranks 0 to {self.size - 1}")
        return self.members[place]

    def needs(self, root: int | None, gathers: bool) -> tuple[int, ...]:
        """Whom a carried call waits for: all others; of a rooted one that is not strict, those it needs."""
        if root is None or self.context.strict:
            return self.everybody
        if root == self.index:
            return self.everybody if gathers else ()
        return () if gathers else (root,)

    def count(self, what: Any) -> int:
        """The number of this call among those of its sort, from 0."""
        with self.lock:
            self.counts[what] += 1
            return self.counts[what] - 1

    def known(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` gives; it is asked once for each key."""
        found: Found | None = self._known.get(key)
        if found is None:
            if len(self._known) > _KNOWN:
                self._known.clear()
            found = self._known[key] = find()
        return found

    def keep(self, work: Any) -> None:
        """Keep an asynchronous call until it is over, and the last ones longer: C++ may still ask them."""
        self.works.append(work)
        if len(self.works) > 2 * _KEPT:
            old, new = self.works[:-_KEPT], self.works[-_KEPT:]
            self.works = [one for one in old if not one.over] + new


_KNOWN = 1024


_dtypes: dict[torch.dtype, tuple[str, int]] = {}


def tensors_of(tensors: Sequence[torch.Tensor]) -> tuple[Tensor, ...]:
    """The types of tensors, for a call."""
    found = []
    for one in tensors:
        dtype = one.dtype
        if dtype not in _dtypes:
            _dtypes[dtype] = str(dtype).removeprefix("torch."), dtype.itemsize
        name, itemsize = _dtypes[dtype]
        size = one.numel() if one.layout is torch.strided else 0
        device = "cpu" if one.is_cpu else one.device.type
        found.append(Tensor(name, tuple(one.shape), size, itemsize, device))
    return tuple(found)


def types_of(arguments: Sequence[Any]) -> tuple[Hashable, ...]:
    """What of an operation's arguments decides what is called: of tensors their types, of all others all."""
    return tuple(
        [
            (one.dtype, one.shape, one.layout, one.device)
            if isinstance(one, torch.Tensor)
            else types_of(one)
            if type(one) is list
            else one
            for one in arguments
        ]
    )


def known_group(context: RankContext, process_group: Any) -> Group | None:
    """What is known of one of torch's groups; `None` where it is not looked at."""
    found = context.groups.get(process_group, context)
    if found is context:
        found = context.groups[process_group] = _adopted(context, process_group)
    group: Group | None = found
    return group


def _adopted(context: RankContext, process_group: Any) -> Group | None:
    """A group that was made in another way than by the functions that we see, `split_group` for one."""
    world = context.groups.get(c10d._get_default_group()) if c10d.is_initialized() else None
    ranks = c10d._world.pg_group_ranks.get(process_group)
    if world is None or not ranks:
        return None
    return subgroup(world, process_group, list(ranks), world.seconds)


def world_group(
    context: RankContext, members: Sequence[int], index: int, carried: bool, seconds: float
) -> Group:
    """The default group of these ranks of the product; the second one of the same ranks is `world.2`."""
    number = context.counts["world", tuple(members)] = context.counts["world", tuple(members)] + 1
    name = "world" if len(members) == context.size else f"world[{','.join(map(str, members))}]"
    return Group(context, name + (f".{number}" if number > 1 else ""), members, index, carried, seconds)


def subgroup(world: Group, process_group: Any, ranks: Sequence[int], seconds: float) -> Group:
    """A group of some of the world's ranks, which are torch's global ones."""
    members = [world.members[rank] for rank in ranks]
    name = f"{process_group.group_name[:_NAME]}[{','.join(map(str, members))}]"
    description = process_group.group_desc
    if description not in ("", "undefined"):
        name = f"{description}:{name}"
    prefix = "" if world.name == "world" else f"{world.name}/"
    index = process_group.rank()
    group = Group(world.context, prefix + name, members, index, world.carried, seconds)
    group.backends = backends_of(process_group)
    return group


def backends_of(process_group: Any) -> str:
    """The backends of one of torch's groups, by device: `"cpu:gloo,cuda:nccl"`."""
    return str(c10d._world.pg_backend_config.get(process_group, ""))


_NAME = 8
