"""Ranks that are threads of one process: of what torch has once for a process, each has its own.

*Theory of operation.*  Torch keeps most of a rank's state by thread: the grad mode, autograd's, and, in its
thread isolation mode, the groups by their names.  The rest is parted here: `_world`, which holds the process
groups, is looked up by thread, and the state of the generator of random numbers is kept while another rank
runs.  Backward passes stay in the rank's own thread, and operations use one processor.

Torch's own tests have ranks that are threads by the same means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.distributed_c10d as c10d
from torch._C import _distributed_c10d

from pytest_elastic.collectives._importing import BecomeRank, Keep
from pytest_elastic.collectives._rank_context import RankContext, current_in_thread, use_in_thread

_c10d: Any = _distributed_c10d
_generator = torch.default_generator


class RankWorld(c10d._World):
    """The process groups of one rank: what `_World` has, none of it kept in torch's module."""

    pg_map = pg_names = pg_group_ranks = pg_backend_config = None  # type: ignore[assignment]
    tags_to_pg = pg_to_tag = None  # type: ignore[assignment]
    group_count = 0

    def __init__(self) -> None:
        super().__init__()
        for name in _MAPS:
            setattr(self, name, {})


_MAPS = ("pg_map", "pg_names", "pg_group_ranks", "pg_backend_config", "tags_to_pg", "pg_to_tag")


class _WorldByThread:
    """Stands for `_world`: the calling thread's, or the process's own."""

    def __init__(self, own: Any) -> None:
        object.__setattr__(self, "_own", own)

    def _mine(self) -> Any:
        context = current_in_thread()
        return self._own if context is None or context.world is None else context.world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mine(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._mine(), name, value)


@contextmanager
def ranks_as_threads() -> Iterator[BecomeRank]:
    """See `collectives.ranks_as_threads`."""
    own, threads, drawn = c10d._world, torch.get_num_threads(), _generator.get_state()
    c10d._world = _WorldByThread(own)  # type: ignore[assignment]
    _c10d._set_thread_isolation_mode(True)
    torch.set_num_threads(1)
    try:
        yield _become
    finally:
        _generator.set_state(drawn)
        torch.set_num_threads(threads)
        _c10d._set_thread_isolation_mode(False)
        c10d._world = own


@contextmanager
def _become(context: RankContext) -> Iterator[Keep]:
    hook = sys.excepthook  # Each group that is made replaces it.
    context.world = RankWorld()
    use_in_thread(context)
    _generator.manual_seed(0)
    try:
        with torch.autograd.set_multithreading_enabled(False), torch.enable_grad():
            yield _keep_generator
    finally:
        _c10d._unregister_all_process_groups()
        use_in_thread(None)
        context.world = None
        context.groups.clear()
        sys.excepthook = hook


def _keep_generator() -> Callable[[], None]:
    state = _generator.get_state()

    def restore() -> None:
        _generator.set_state(state)

    return restore
