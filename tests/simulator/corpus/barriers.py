"""Ranks that do not meet: missing, late, twice, or at another barrier."""

from __future__ import annotations

from typing import Any

from pytest_elastic.store import barrier
from simulator.corpus._kernel import Kernel


def missing_rank(rank: int, world_size: int, store: Any) -> None:
    """A branch on the rank keeps the last one from a barrier that is everybody's."""
    if rank != world_size - 1:
        barrier(store, world_size, "b")


def no_missing_rank(rank: int, world_size: int, store: Any) -> None:
    """The branch is around the work, not around the barrier."""
    if rank != world_size - 1:
        store.set(f"work{rank}", "1")
    barrier(store, world_size, "b")


def error_before_barrier(rank: int, world_size: int, store: Any) -> None:
    """One rank's input is bad: it raises, and the others wait for it."""
    if rank == 1:
        raise ValueError("bad record")
    barrier(store, world_size, "b")


def error_after_barrier(rank: int, world_size: int, store: Any) -> None:
    """Everybody comes to the barrier with a verdict, and reads the others' after it."""
    store.set(f"verdict{rank}", "bad" if rank == 1 else "good")
    barrier(store, world_size, "b")
    assert store.check([f"verdict{r}" for r in range(world_size)])


def mismatched_counts(rank: int, world_size: int, store: Any) -> None:
    """Uneven data: rank 0 has one batch, and so one barrier, more than the others."""
    for i in range(2 if rank == 0 else 1):
        barrier(store, world_size, f"b{i}")


def matched_counts(rank: int, world_size: int, store: Any) -> None:
    """Everybody runs the longest loop."""
    for i in range(2):
        barrier(store, world_size, f"b{i}")


def different_order(rank: int, world_size: int, store: Any) -> None:
    """Rank 0 saves, then evaluates; the others evaluate, then save."""
    for name in ("save", "evaluate") if rank == 0 else ("evaluate", "save"):
        barrier(store, world_size, name)


def same_order(rank: int, world_size: int, store: Any) -> None:
    """One order for all."""
    for name in ("save", "evaluate"):
        barrier(store, world_size, name)


def nonatomic_counter(rank: int, world_size: int, store: Any) -> None:
    """A barrier that counts with a read and a write: two ranks write the same count."""
    count = (int(store.get("count")) if store.check(["count"]) else 0) + 1
    store.set("count", str(count))
    if count == world_size:
        store.set("go", "1")
    store.wait(["go"])


def atomic_counter(rank: int, world_size: int, store: Any) -> None:
    """`add` counts in one step."""
    if store.add("count", 1) == world_size:
        store.set("go", "1")
    store.wait(["go"])


def prefix_reuse(rank: int, world_size: int, store: Any) -> None:
    """The second barrier has the first one's prefix, finds its keys, and lets everybody pass."""
    _exchange(rank, world_size, store, "epoch", "epoch")


def prefix_of_its_own(rank: int, world_size: int, store: Any) -> None:
    """A prefix is good for one use."""
    _exchange(rank, world_size, store, "epoch1", "epoch2")


def _exchange(rank: int, world_size: int, store: Any, first: str, second: str) -> None:
    barrier(store, world_size, first)
    store.set(f"x{rank}", "1")
    barrier(store, world_size, second)
    assert store.check([f"x{r}" for r in range(world_size)]), "passed before everybody had written"


def reset_race(rank: int, world_size: int, store: Any) -> None:
    """A reusable barrier: the last one resets it before the others have seen it open."""
    for _ in range(2):
        if store.add("count", 1) == world_size:
            store.set("go", "1")
            store.delete_key("count")
            store.delete_key("go")
        else:
            store.wait(["go"])


def no_reset(rank: int, world_size: int, store: Any) -> None:
    """A round's keys are its own, and stay."""
    for i in range(2):
        if store.add(f"count{i}", 1) == world_size:
            store.set(f"go{i}", "1")
        else:
            store.wait([f"go{i}"])


def generation_after_add(rank: int, world_size: int, store: Any) -> None:
    """A reusable barrier that asks for its generation after it counted itself: it may be the next one by then."""
    for _ in range(2):
        count = store.add("count", 1)
        generation = store.add("generation", 0)
        _open_or_wait(store, count == world_size, generation)


def generation_before_add(rank: int, world_size: int, store: Any) -> None:
    """The generation cannot change while this rank has not counted itself."""
    for _ in range(2):
        generation = store.add("generation", 0)
        _open_or_wait(store, store.add("count", 1) == world_size, generation)


def _open_or_wait(store: Any, last: bool, generation: int) -> None:
    if last:
        store.set("count", "0")
        store.add("generation", 1)
        store.set(f"go{generation}", "1")
    else:
        store.wait([f"go{generation}"])


def cross_matched(rank: int, world_size: int, store: Any) -> None:
    """Barriers are numbered by each rank: rank 0's first (it saved) meets the others' second (they trained)."""
    calls = iter(range(3))
    if rank == 0:
        barrier(store, world_size, f"b{next(calls)}")
        store.set("saved", "1")
        barrier(store, world_size, f"b{next(calls)}")
    else:
        barrier(store, world_size, f"b{next(calls)}")
        assert store.check(["saved"]), "this barrier was another one"


def named_barriers(rank: int, world_size: int, store: Any) -> None:
    """A barrier is known by what it is for."""
    barrier(store, world_size, "save")
    if rank == 0:
        store.set("saved", "1")
    barrier(store, world_size, "train")
    assert store.check(["saved"])


def barrier_at_exit(rank: int, world_size: int, store: Any) -> None:
    """A `finally` (or `atexit`) barrier keeps the failing rank alive, so that nobody sees its error."""
    try:
        if rank == 1:
            raise ValueError("bad record")
        barrier(store, world_size, "train")
    finally:
        barrier(store, world_size, "exit")


def barrier_at_success(rank: int, world_size: int, store: Any) -> None:
    """The last barrier belongs to those who came through, here all."""
    barrier(store, world_size, "train")
    barrier(store, world_size, "exit")


KERNELS = [
    Kernel(1, missing_rank, no_missing_rank, always=True),
    Kernel(2, error_before_barrier, error_after_barrier, always=True, fails="error"),
    Kernel(3, mismatched_counts, matched_counts, always=True),
    Kernel(4, different_order, same_order, always=True),
    Kernel(8, nonatomic_counter, atomic_counter, always=False, delays=1),
    Kernel(9, prefix_reuse, prefix_of_its_own, always=False, fails="error"),
    Kernel(10, reset_race, no_reset, always=False, delays=1),
    Kernel(13, generation_after_add, generation_before_add, always=False, delays=1),
    Kernel(21, cross_matched, named_barriers, always=True, fails="error"),
    Kernel(34, barrier_at_exit, barrier_at_success, always=True),
]
