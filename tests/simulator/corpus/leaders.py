"""One rank decides, serves or watches, and the others come too early or too late."""

from __future__ import annotations

from typing import Any

from simulator.corpus._kernel import Kernel


def leader_leaves(rank: int, world_size: int, store: Any) -> None:
    """The rank that holds the store ends first, and its data goes with it; a late reader finds nothing."""
    if rank == 0:
        store.set("weights", "1")
        store.delete_key("weights")
    else:
        store.get("weights")


def leader_stays(rank: int, world_size: int, store: Any) -> None:
    """It ends after everybody has read."""
    if rank == 0:
        store.set("weights", "1")
        store.wait(["read"])
        store.delete_key("weights")
    else:
        store.get("weights")
        if store.add("readers", 1) == world_size - 1:
            store.set("read", "1")


def hasty_follower(rank: int, world_size: int, store: Any) -> None:
    """Followers report to the elected leader only if they see its epoch, which may come a moment later."""
    me = str(rank)
    if store.compare_set("leader", "", me) == me.encode():
        store.set("epoch", "1")
        store.wait([f"joined{r}" for r in range(world_size) if r != rank])
    elif store.check(["epoch"]):
        store.set(f"joined{rank}", "1")


def patient_follower(rank: int, world_size: int, store: Any) -> None:
    """They wait for the epoch."""
    me = str(rank)
    if store.compare_set("leader", "", me) == me.encode():
        store.set("epoch", "1")
        store.wait([f"joined{r}" for r in range(world_size) if r != rank])
    else:
        store.wait(["epoch"])
        store.set(f"joined{rank}", "1")


def crossed_locks(rank: int, world_size: int, store: Any) -> None:
    """Two locks (tickets, counted with `add`), taken in two orders."""
    names = ["a", "b"] if rank == 0 else ["b", "a"]
    _work_under(store, names)


def ordered_locks(rank: int, world_size: int, store: Any) -> None:
    """One order for all."""
    _work_under(store, ["a", "b"])


def _work_under(store: Any, names: list[str]) -> None:
    tickets = {}
    for name in names:
        tickets[name] = store.add(f"{name}/tickets", 1)
        if tickets[name] > 1:
            store.wait([f"{name}/turn{tickets[name]}"])
    for name in names:
        store.set(f"{name}/turn{tickets[name] + 1}", "1")


def stale_keys(rank: int, world_size: int, store: Any) -> None:
    """A group restarts on the same store: somebody reads the address that its last life left there."""
    _announce(rank, world_size, store, ["address", "address"])


def fresh_keys(rank: int, world_size: int, store: Any) -> None:
    """Each life has keys of its own."""
    _announce(rank, world_size, store, ["address0", "address1"])


def _announce(rank: int, world_size: int, store: Any, keys: list[str]) -> None:
    for life, key in enumerate(keys):
        if rank == 0:
            store.set(key, str(life))
            store.wait([f"connected{life}/{r}" for r in range(1, world_size)])
        else:
            store.set(f"connected{store.get(key).decode()}/{rank}", "1")


def late_kill(rank: int, world_size: int, store: Any) -> None:
    """A watchdog looks, then kills; its victim has released the timer between the two."""
    if rank == 0:
        if store.check(["timer"]):
            store.set("killed", "1")
    else:
        store.set("timer", "armed")
        store.delete_key("timer")
        store.set("done", "1")
        assert not store.check(["killed"]), "killed though it had released its timer"


def fair_kill(rank: int, world_size: int, store: Any) -> None:
    """Looking and killing are one step, as is releasing."""
    if rank == 0:
        store.compare_set("timer", "armed", "killed")
    else:
        store.set("timer", "armed")
        released = store.compare_set("timer", "armed", "released") == b"released"
        assert released != (store.get("timer") == b"killed")


KERNELS = [
    Kernel(7, crossed_locks, ordered_locks, always=False, ranks=2, delays=1),
    Kernel(11, leader_leaves, leader_stays, always=False),
    Kernel(12, hasty_follower, patient_follower, always=False, delays=1),
    Kernel(32, late_kill, fair_kill, always=False, ranks=2, fails="error", delays=2),
    Kernel(33, stale_keys, fresh_keys, always=False),
]
