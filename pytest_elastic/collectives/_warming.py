"""Warming: what a process does at its first group and collective is done once, before ranks are forked.

*Theory of operation.*  Python and torch find, fill and throw away much at first use: caches of types and of
the dispatcher, the logger of c10d, a table of torch's compiler, which `init_process_group` empties.  In a
fork each page that this writes is copied first: half of what a rank's first group costs.  So the process
that is forked makes a group of two, of which it is one, and sums up once.  The other member is a store that
tells of it what it was told of the first.  Nothing of the group is left, and no thread was started.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed.distributed_c10d as _c10d

from pytest_elastic.collectives._rank_context import RankContext, use_in_thread
from pytest_elastic.store import torch_store

c10d: Any = _c10d
_KEPT = ("_backend", "_default_pg_init_method")
"""What torch leaves of a group that was destroyed."""


class _Mirror:
    """A store on which the other member does as the first one does."""

    timeout = timedelta(minutes=5)

    def set_timeout(self, timeout: Any) -> None:
        """Nothing waits."""

    def meet(
        self,
        name: str,
        count: int,
        place: int,
        needs: Sequence[int],
        given: tuple[bytes, bytes],
        seconds: float,
    ) -> list[bytes]:
        call, value = given
        return [call, b"1" if name.startswith("init") else value]


def warm_up() -> None:
    """Make a group, sum up over it and destroy it; nothing is done where this process has a group.

    Nor is it where torch would put a group of gloo's below ours, which has threads.
    """
    if c10d.is_initialized() or c10d.get_debug_level() == c10d.DebugLevel.DETAIL:
        return
    kept, hook = {name: getattr(c10d, name) for name in _KEPT}, sys.excepthook
    mirror: Any = _Mirror()
    use_in_thread(RankContext(mirror, 0, 2))
    try:
        with contextlib.suppress(Exception):  # What cannot be done here is told where a rank does it.
            c10d.init_process_group("elastic", store=torch_store(mirror), rank=0, world_size=2)
            c10d.all_reduce(torch.ones(1))
    finally:
        if c10d.is_initialized():
            c10d.destroy_process_group()
        use_in_thread(None)
        vars(c10d).update(kept)
        sys.excepthook = hook
