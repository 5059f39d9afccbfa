"""Inner runs that many tests look at: done once in a session, also where its tests run in several workers of xdist."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_by_workers(factory: pytest.TempPathFactory) -> Path:
    """The directory for temporary files of this session, the same in all workers."""
    mine = factory.getbasetemp()
    return mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine


def done_once(factory: pytest.TempPathFactory, name: str, run: Callable[[Path], object]) -> Path:
    """The directory in which `run` has written what there is to see; workers that come meanwhile wait for it.

    Blocks as long as the run does.  A run that raises is tried again by the next worker.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        directory = factory.mktemp(name)
        run(directory)
        return directory
    place = shared_by_workers(factory)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = [*place.glob(f"{name}-done-*")]
        if done:
            return done[0]
        directory = factory.mktemp(name)
        run(directory)
        return directory.rename(place / f"{name}-done-{os.environ['PYTEST_XDIST_WORKER']}")
