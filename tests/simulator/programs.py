"""Rank functions that tests run."""

from __future__ import annotations

from pytest_elastic.store import barrier


def exchange(rank, world_size, store):
    """Correct: two barriers, and everybody's value is there after the second."""
    barrier(store, world_size, "a")
    store.set(f"x{rank}", "1")
    barrier(store, world_size, "b")
    assert store.check([f"x{r}" for r in range(world_size)])
    return rank


def count_by_hand(rank, world_size, store):
    """A barrier by get and set, which loses a count under some schedules."""
    count = int(store.get("n")) + 1 if store.check(["n"]) else 1
    store.set("n", str(count))
    if count == world_size:
        store.set("go", "1")
    store.wait(["go"])


def lock_crosswise(rank, world_size, store):
    """Two locks, taken in two orders: a deadlock under some schedules."""
    first, second = ("a", "b") if rank == 0 else ("b", "a")
    for name in (first, second):
        while store.add(name, 1) != 1:
            store.add(name, -1)
            store.wait([f"{name}/free"])
    for name in (second, first):
        store.add(name, -1)
        store.set(f"{name}/free", "")


def take_notice(rank, world_size, store):
    """Rank 1 waits for a key that rank 0 sets and deletes."""
    if rank == 0:
        store.set("news", "1")
        store.delete_key("news")
    else:
        store.wait(["news"])


def end_alone(rank, world_size, store):
    """The last rank never comes to the barrier."""
    if rank < world_size - 1:
        barrier(store, world_size, "b")
