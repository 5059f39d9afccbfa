"""Collectives under plain gloo, checked and carried, in turns: `python tests/benchmarks/bench_collectives.py [rounds]`.

Each measurement forks ranks that share a store of ours, as the ranks of a test do; printed are medians over the rounds,
of the slowest rank, and the ratio to plain gloo (below 1: ours is faster).  "verdict" is how long after the last event
a rank's absence is known, as a failing test says; "prove" is the simulator's proof of a step of DDP.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pytest_elastic import collectives
from pytest_elastic.simulator import prove, torch_ranks
from pytest_elastic.store import RemoteStore, StoreServer, torch_store

MODES = {"gloo": ("off", "gloo"), "checked": ("check", "gloo"), "carried": ("check", "elastic")}
MISSING = """
import pytest, torch.distributed as dist
@pytest.mark.elastic(nprocs=4)
@pytest.mark.parametrize("number", range(7))
@pytest.mark.process_group("BACKEND")
def test_missing(process_group, rank, number):
    dist.barrier()
    if rank != 1:
        dist.barrier()
"""

Measure = Callable[[], Any]


def on_ranks(kind: str, size: int, measure: Measure) -> tuple[float, list[Any]]:
    """Seconds that `init_process_group` took, and what `measure` returned on each rank."""
    mode, backend = MODES[kind]
    with StoreServer() as server, tempfile.TemporaryDirectory() as place:
        address, pids = server.address, []
        for rank in range(size):
            pids.append(os.fork())
            if pids[-1] == 0:
                try:
                    found = as_rank(RemoteStore(address), rank, size, (mode, backend), measure)
                    Path(place, str(rank)).write_bytes(pickle.dumps(found))
                finally:
                    os._exit(0)
        for pid in pids:
            os.waitpid(pid, 0)
        found = [pickle.loads(Path(place, str(rank)).read_bytes()) for rank in range(size)]
    return max(seconds for seconds, _ in found), [value for _, value in found]


def as_rank(
    store: RemoteStore, rank: int, size: int, how: tuple[str, str], measure: Measure
) -> tuple[float, Any]:
    torch.set_num_threads(1)
    collectives.use_store(store, rank, size, how[0])
    store.barrier("started", size)
    began = time.perf_counter()
    dist.init_process_group(
        how[1], store=torch_store(store), rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    took = time.perf_counter() - began
    found = measure()
    dist.barrier()
    return took, found


def all_reduces(elements: int, count: int) -> Measure:
    """Median seconds of an `all_reduce` of so many floats, and seconds of processor time for each."""

    def measure() -> tuple[float, float]:
        tensor, times = torch.ones(elements), []
        for _ in range(3):
            dist.all_reduce(tensor)
        cpu = time.thread_time()
        for _ in range(count):
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        return statistics.median(times), (time.thread_time() - cpu) / count

    return measure


def show(title: str, found: dict[str, list[float]], unit: str = "ms", factor: float = 1e3) -> None:
    medians = {kind: statistics.median(values) for kind, values in found.items()}
    base = medians["gloo"]
    text = "   ".join(
        f"{kind} {value * factor:9.2f} {unit}" + ("" if kind == "gloo" else f" (x {value / base:.2f})")
        for kind, value in medians.items()
    )
    print(f"{title:32} {text}", flush=True)


def collect(rounds: int, size: int, measure: Measure) -> dict[str, list[tuple[float, list[Any]]]]:
    """The measurements of each kind, in turns."""
    found: dict[str, list[tuple[float, list[Any]]]] = {kind: [] for kind in MODES}
    for _ in range(rounds):
        for kind in MODES:
            found[kind].append(on_ranks(kind, size, measure))
    return found


def verdicts() -> None:
    """From the last event to the verdict, on real ranks."""
    for backend in ("gloo", "elastic"):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, f"test_missing_{backend}.py")
            path.write_text(MISSING.replace("BACKEND", backend), "utf-8")
            told = io.StringIO()
            with contextlib.redirect_stdout(told):
                pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", place, str(path)])
        known = [float(one) for one in re.findall(r"known ([\d.]+) ms after", told.getvalue())]
        print(
            f"verdict, 4 ranks, {backend:8} median {statistics.median(known or [-1]):.2f} ms of {known}",
            flush=True,
        )


@torch_ranks
def ddp_step(rank: int, world_size: int, store: Any) -> None:
    """A step of DDP on a small model."""
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def proofs(rounds: int) -> None:
    """A proof of that step, in the simulator; the first one imports."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        prove(ddp_step, ranks=4)
        times.append(time.perf_counter() - began)
    print(f"prove a step of DDP, 4 ranks      median {statistics.median(times[1:]) * 1e3:.1f} ms", flush=True)


def main(rounds: int) -> None:
    warnings.simplefilter("ignore")
    collectives.install()
    collectives.preload()
    gc.collect()
    gc.freeze()  # As the zygote does: what is measured is not a collection of torch's objects.
    for size in (4, 8):
        found = collect(rounds, size, lambda: None)
        show(f"init, {size} ranks", {kind: [took for took, _ in all_] for kind, all_ in found.items()})
    for size, elements, name, count in (
        (4, 4, "16 B", 100),
        (4, 2**18, "1 MiB", 20),
        (8, 2**18, "1 MiB", 20),
        (4, 2**24, "64 MiB", 4),
        (8, 2**24, "64 MiB", 3),
    ):
        found = collect(rounds, size, all_reduces(elements, count))
        for place, what in enumerate(("all_reduce", "CPU of all_reduce")):
            values = {
                kind: [max(value[place] for value in ranks) for _, ranks in all_]
                for kind, all_ in found.items()
            }
            show(f"{what} {name}, {size} ranks", values)
    verdicts()
    proofs(rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
