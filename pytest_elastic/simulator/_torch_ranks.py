"""Rank functions that use `torch.distributed`: their collectives go over the simulated store.

*Theory of operation.*  Every collective is an operation of the store, with the data in it, so that it is a
scheduling point like any other, and nothing else of the search knows of torch.  Each rank is a thread with
its own world of process groups (`collectives.ranks_as_threads`).  Whatever backend is asked for, the store
carries the data; no network is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload
from weakref import WeakKeyDictionary

from pytest_elastic.collectives import BecomeRank, RankContext, ranks_as_threads
from pytest_elastic.simulator._simulated_rank import SimulatedStore
from pytest_elastic.simulator._simulation import RankFunction


class TorchRanks:
    """A rank function of torch code; called with another store than a simulated one, it is what it was.

    Args:
        function: called as `function(rank, world_size, store)`.
        strict: whether a collective with a root waits for all members.
    """

    def __init__(self, function: RankFunction, strict: bool) -> None:
        functools.update_wrapper(self, function)
        self._function, self._strict = function, strict
        self._become: BecomeRank | None = None
        self._contexts: WeakKeyDictionary[SimulatedStore, RankContext] = WeakKeyDictionary()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Entered by each simulation, before its ranks run."""
        with ranks_as_threads() as self._become:
            try:
                yield
            finally:
                self._become = None

    def __call__(self, rank: int, world_size: int, store: Any) -> Any:
        __tracebackhide__ = True
        if not isinstance(store, SimulatedStore):
            return self._function(rank, world_size, store)
        if self._become is None:
            raise RuntimeError(
                "what torch_ranks gives has to be given to the simulator as it is, not in another function"
            )
        context = self._contexts.get(store)
        if context is None:  # Its meetings are numbered over all rounds.
            context = RankContext(store, rank, world_size, "carry", self._strict, threaded=True)
            self._contexts[store] = context
        with self._become(context) as store.rank.keep:
            return self._function(rank, world_size, store)


@overload
def torch_ranks(function: RankFunction) -> RankFunction: ...


@overload
def torch_ranks(*, strict: bool = True) -> Callable[[RankFunction], RankFunction]: ...


def torch_ranks(function: RankFunction | None = None, *, strict: bool = True) -> Any:
    """Decorator of a rank function that uses `torch.distributed`, for `explore`, `prove`, `replay`, ...

    The function calls `init_process_group` itself, with any backend; rank and world size need not be given.
    Groups that it leaves are ended.  Every rank begins with `torch.manual_seed(0)`, and draws for itself.
    What the first DDP or optimizer imports is imported before the ranks run, once, which takes seconds.
    Devices other than the CPU, and environment variables that differ by rank, are not simulated.

    Args:
        function: called on each rank as `function(rank, world_size, store)`.
        strict: whether `broadcast`, `scatter`, `reduce` and `gather` wait for all members.  Without that a
            call waits only for those whose data it needs, as with gloo: then a program may pass that hangs
            where a backend waits for all, and there are more schedules.

    Raises:
        ImportError: by the simulator: torch is not installed, or is too old.

    >>> @torch_ranks
    ... def total(rank, world_size, store):
    ...     import torch.distributed as dist
    ...     dist.init_process_group("gloo")
    ...     found = torch.tensor([rank])
    ...     dist.all_reduce(found)
    ...     return found.item()
    """
    if function is None:
        return functools.partial(torch_ranks, strict=strict)
    return TorchRanks(function, strict)
