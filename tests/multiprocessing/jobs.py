"""What ranks do where a fresh interpreter must be able to import it."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def double(value: Any) -> Any:
    return value * 2


def sleep_on(rank: int) -> None:
    time.sleep(1000)


def fail_on_one(rank: int) -> None:
    if rank == 1:
        raise ValueError("boom")
    time.sleep(1000)


def die_in_a_line(rank: int) -> None:
    """With half a line written to each stream."""
    print("out", end=" ")
    print("err", end=" ", file=sys.stderr)
    os.kill(os.getpid(), 9)


def surroundings(rank: int) -> dict[str, Any]:
    """What a rank sees of its process."""
    print("out", rank)
    print("err", rank, file=sys.stderr)
    return {
        "leads": os.getpgid(0) == os.getpid(),
        "variable": os.environ.get("VARIABLE"),
        "marker": os.environ.get("PYTEST_ELASTIC_GROUP"),
        "stdin": os.read(0, 1),
        "private": [name for name in os.environ if name == "PYTEST_ELASTIC_FUNCTION"],
    }
