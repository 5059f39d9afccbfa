"""Ranks that are slower than somebody thought; the clock is the simulation's, so nothing takes time."""

from __future__ import annotations

import time
from typing import Any

from pytest_elastic.errors import DistStoreError
from simulator.corpus._kernel import Kernel


def slow_joiner(rank: int, world_size: int, store: Any) -> None:
    """One rank loads for 5 s; the others were told to wait for 1."""
    _join(rank, store, patience=1.0)


def awaited_joiner(rank: int, world_size: int, store: Any) -> None:
    """They were told to wait for a minute."""
    _join(rank, store, patience=60.0)


def _join(rank: int, store: Any, patience: float) -> None:
    if rank == 0:
        time.sleep(5.0)
        store.set("ready", "1")
    else:
        store.wait(["ready"], patience)


def hasty_accuser(rank: int, world_size: int, store: Any) -> None:
    """After a failed barrier rank 0 looks for the others' traces for 10 ms; a rank that came later is accused."""
    _accuse(rank, world_size, store, patience=0.01)


def patient_accuser(rank: int, world_size: int, store: Any) -> None:
    """It looks for longer than a rank can be late."""
    _accuse(rank, world_size, store, patience=1.0)


def _accuse(rank: int, world_size: int, store: Any, patience: float) -> None:
    time.sleep(0.05 * rank)
    if rank == world_size - 1:
        return
    try:
        store.wait(["everybody"], 0.1)
    except DistStoreError:
        store.set(f"trace{rank}", "1")
    if rank == 0:
        store.wait([f"trace{r}" for r in range(world_size - 1)], patience)


KERNELS = [
    Kernel(14, slow_joiner, awaited_joiner, always=True, fails="error"),
    Kernel(19, hasty_accuser, patient_accuser, always=True, fails="error", options={"may_timeout": True}),
]
