"""Collectives of `torch.distributed`: compared over the ranks' store, and carried by it where that is wanted.

* `install` has the calls of this process seen; without torch it waits for torch to be imported.
* `use_store` says over which store, as which rank; a thread may be another rank: `use_in_thread`.
* `declare_worlds` is for a process that learns only at `init_process_group` which rank it is.
* `ranks_as_threads` lets threads be ranks of torch code, each with a world of its own, as a simulation needs.
* The backend `"elastic"` needs no network: its data goes through the store, or through shared memory.
"""

from pytest_elastic.collectives._importing import BecomeRank, Keep, install, preload, ranks_as_threads
from pytest_elastic.collectives._rank_context import (
    MODES,
    RankContext,
    current,
    declare_worlds,
    use_in_thread,
    use_store,
)

__all__ = [
    "MODES",
    "BecomeRank",
    "Keep",
    "RankContext",
    "current",
    "declare_worlds",
    "install",
    "preload",
    "ranks_as_threads",
    "use_in_thread",
    "use_store",
]
