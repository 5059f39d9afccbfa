"""Groups of processes beside torch's, both in one run: `python tests/benchmarks/bench_processes.py [rounds]`.

Prints medians and ratios of: four ranks that return a value (start to result), by spawn, and by forkserver
with torch preloaded; the time from the last exit to the return of `wait(period=1)`.  Then, ours alone: how
long `close` takes for 32 ranks that ignore SIGTERM, beyond their grace.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed.elastic.multiprocessing as torch_side

import pytest_elastic.multiprocessing as our_side

SIDES: dict[str, Any] = {"ours": our_side, "torch": torch_side}
GRACE = 0.5


def double(value: int) -> int:
    return value * 2


def use_torch(value: int) -> int:
    import torch

    return int(torch.tensor(value).item()) * 2


def end_later() -> None:
    time.sleep(0.3)


def ignore(rank: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ignoring", flush=True)
    time.sleep(1000)


def start(
    side: str, function: Callable[..., Any], args: dict[int, Any], method: str, tee: bool = False
) -> Any:
    module = SIDES[side]
    shown = module.Std.ALL if tee else module.Std.NONE
    specs = module.DefaultLogsSpecs(tempfile.mkdtemp(), redirects=module.Std.ALL, tee=shown)
    envs: dict[int, dict[str, str]] = {rank: {} for rank in args}
    return module.start_processes("bench", function, args, envs, logs_specs=specs, start_method=method)


def run(side: str, function: Callable[..., Any], method: str) -> float:
    """Milliseconds from the call to the result of four ranks."""
    begin = time.monotonic()
    context = start(side, function, {rank: (rank,) for rank in range(4)}, method)
    # Torch sleeps whole periods: a short one is in its favour.
    result = context.wait(60, 0.01)
    span = time.monotonic() - begin
    assert result.return_values == {rank: rank * 2 for rank in range(4)}, result
    return span * 1e3


def wake(side: str, tee: bool) -> float:
    """Milliseconds from the end of the last rank's process to the return of `wait(period=1)`."""
    context = start(side, end_later, {0: ()}, "fork", tee)
    (pid,) = context.pids().values()
    ended = Ending(pid)
    assert context.wait(-1, 1) is not None
    return (time.monotonic() - ended.at()) * 1e3


class Ending:
    """Notes when a process has ended, in a thread."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)
        self._noted = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        select.select([self._descriptor], [], [])
        self._noted = time.monotonic()
        os.close(self._descriptor)

    def at(self) -> float:
        self._thread.join()
        return self._noted


def stubborn() -> float:
    """Milliseconds that `close` of 32 ranks takes beyond the grace."""
    context = start("ours", ignore, {rank: (rank,) for rank in range(32)}, "fork")
    while not all(os.path.exists(p) and os.path.getsize(p) for p in context.stdouts.values()):
        time.sleep(0.01)
    begin = time.monotonic()
    context.close(timeout=GRACE)
    return (time.monotonic() - begin - GRACE) * 1e3


def compare(what: str, rounds: int, measure: Callable[[str], float]) -> dict[str, float]:
    values: dict[str, list[float]] = {side: [] for side in SIDES}
    for side in SIDES:
        measure(side)  # The first run starts servers, on both sides.
    for _ in range(rounds):
        for side in SIDES:
            values[side].append(measure(side))
    medians = {side: statistics.median(values[side]) for side in SIDES}
    ratio = medians["torch"] / medians["ours"]
    print(f"{what:36} ours {medians['ours']:9.1f} ms   torch {medians['torch']:9.1f} ms   {ratio:6.1f} x")
    return medians


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    multiprocessing.set_forkserver_preload(["torch.distributed.elastic.multiprocessing"])
    spawned = compare("4 values, spawn", rounds, lambda side: run(side, double, "spawn"))
    with_torch = compare("4 values, spawn, torch used", rounds, lambda side: run(side, use_torch, "spawn"))
    served = compare(
        "4 values, forkserver, torch used", rounds, lambda side: run(side, use_torch, "forkserver")
    )
    for name, medians in (("spawn", spawned), ("spawn, torch used", with_torch)):
        print(f"{f'our forkserver, torch {name}':36} {medians['torch'] / served['ours']:6.1f} x")
    compare("wait(period=1) after the last exit", rounds, lambda side: wake(side, tee=False))
    compare("the same with tee", rounds, lambda side: wake(side, tee=True))
    beyond = statistics.median(stubborn() for _ in range(rounds))
    print(f"{f'close of 32 stubborn ranks, - {GRACE} s':36} ours {beyond:9.1f} ms")


if __name__ == "__main__":
    main()
