"""Ranks that wait for what does not come, or came and went."""

from __future__ import annotations

from typing import Any

from simulator.corpus._kernel import Kernel


def circular_wait(rank: int, world_size: int, store: Any) -> None:
    """Everybody waits for a neighbour before giving what the other neighbour waits for."""
    store.wait([f"k{(rank + 1) % world_size}"])
    store.set(f"k{rank}", "1")


def give_then_wait(rank: int, world_size: int, store: Any) -> None:
    """Give first."""
    store.set(f"k{rank}", "1")
    store.wait([f"k{(rank + 1) % world_size}"])


def lost_wakeup(rank: int, world_size: int, store: Any) -> None:
    """An acknowledgement is deleted at once; whoever comes later waits for ever."""
    if rank == 0:
        store.set("ack", "1")
        store.delete_key("ack")
    else:
        store.wait(["ack"])


def kept_until_seen(rank: int, world_size: int, store: Any) -> None:
    """It is deleted when everybody has said that it was seen."""
    if rank == 0:
        store.set("ack", "1")
        store.wait([f"seen{r}" for r in range(1, world_size)])
        store.delete_key("ack")
    else:
        store.wait(["ack"])
        store.set(f"seen{rank}", "1")


def transient_key(rank: int, world_size: int, store: Any) -> None:
    """A key that is set and deleted: a waiter that is told has seen it, one that looks again has not."""
    if rank == 0:
        store.wait(["pulse"])
    else:
        store.set("pulse", "1")
        store.delete_key("pulse")


def steady_key(rank: int, world_size: int, store: Any) -> None:
    """It stays until it was seen."""
    if rank == 0:
        store.wait(["pulse"])
        store.set("seen", "1")
    else:
        store.set("pulse", "1")
        store.wait(["seen"])
        store.delete_key("pulse")


def two_windows(rank: int, world_size: int, store: Any) -> None:
    """Two moments at which a key is there; the program breaks when one reader hits both."""
    if rank == 0:
        for name in ("first", "second"):
            store.set(name, "1")
            store.delete_key(name)
    else:
        seen = [store.check([name]) for name in ("first", "second")]
        assert seen != [True, True], "both windows were hit"


def no_windows(rank: int, world_size: int, store: Any) -> None:
    """What is written once and in one step has no window."""
    if rank == 0:
        store.multi_set(["first", "second"], ["1", "1"])
    else:
        seen = [store.check([name]) for name in ("first", "second")]
        assert seen != [True, False], "one of two"


def partly_present(rank: int, world_size: int, store: Any) -> None:
    """A wait for many keys that is content with the first: the second may be missing when it is read."""
    if rank < 2:
        store.set(f"k{rank}", "1")
    else:
        store.wait(["k0"])
        assert store.check(["k0", "k1"]), "waited for a part"


def all_present(rank: int, world_size: int, store: Any) -> None:
    """All keys are waited for."""
    if rank < 2:
        store.set(f"k{rank}", "1")
    else:
        store.wait(["k0", "k1"])
        assert store.check(["k0", "k1"])


KERNELS = [
    Kernel(5, circular_wait, give_then_wait, always=True),
    Kernel(6, lost_wakeup, kept_until_seen, always=False, ranks=2),
    Kernel(18, two_windows, no_windows, always=False, fails="error", delays=3),
    Kernel(20, partly_present, all_present, always=False, fails="error", delays=1),
    Kernel(31, transient_key, steady_key, always=False, ranks=2, options={"wake": "level"}),
]
