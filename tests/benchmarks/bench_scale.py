"""Growth with the number of ranks: `python tests/benchmarks/bench_scale.py [ranks ...]`; 16 64 256 by default.

Ranks are processes of one machine that only use the store.  Clients are connections to one server, each with a thread
of its own.  Each row has what was measured and a straight line through it (least squares), by which larger numbers can
be computed; what grows faster than that leaves the line.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from pytest_elastic.store import RemoteStore, StoreServer, barrier

ROUNDS = 20
CLIENTS = (10, 100, 1000)
TESTS = f"""
import time
import pytest

def test_empty(world):
    pass

def test_barriers(world):
    world.barrier("begun")
    began = time.monotonic()
    for number in range({ROUNDS}):
        world.barrier(f"step{{number}}")
    if world.rank == 0:
        with open("barrier", "w") as file:
            file.write(str((time.monotonic() - began) / {ROUNDS}))

@pytest.mark.elastic(timeout=600)
def test_hangs(world):
    if world.rank != 1:
        world.barrier("late", timeout=300)
"""
# In pytest's own process: seconds of each test, its start and end included, and what memory there is then.
CONFTEST = """
import json, time
import psutil

began = 0.0

def pytest_runtest_logstart():
    global began
    began = time.monotonic()

def pytest_runtest_logfinish(nodeid):
    told = [nodeid.rpartition("_")[2], time.monotonic() - began, psutil.Process().memory_info().rss]
    with open("tests", "a") as file:
        file.write(json.dumps(told) + "\\n")
"""


def session(nprocs: int) -> dict[str, float]:
    """One session with so many ranks: what was measured, by its name."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_scale.py").write_text(TESTS, "utf-8")
        (directory / "conftest.py").write_text(CONFTEST, "utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--elastic-nprocs={nprocs}",
        ]
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        tests = [json.loads(line) for line in (directory / "tests").read_text("utf-8").splitlines()]
        known = re.search(r"known ([\d.]+) ms after", ran.stdout)
        assert known, ran.stdout + ran.stderr
        [page] = directory.glob(".pytest_elastic/*/page.html")
        empty, *_, hang = tests
        return {
            "start and end of the ranks, s": empty[1],
            "a barrier of all ranks, ms": float((directory / "barrier").read_text("utf-8")) * 1e3,
            "memory of pytest's process, MiB": hang[2] / 2**20,
            "last event to verdict, ms": float(known[1]),
            "report, lines": len(ran.stdout.splitlines()),
            "page, KiB": page.stat().st_size / 1024,
            "a test that hangs, whole, s": hang[1],
        }


def clients(number: int) -> dict[str, float]:
    """So many clients of one server."""
    threading.stack_size(256 * 1024)
    with StoreServer() as server:
        stores = [RemoteStore(server.address) for _ in range(number)]
        began = time.monotonic()
        for store in stores:
            store.add("count", 1)
        one = (time.monotonic() - began) / number
        times = []
        for step in range(ROUNDS // 4):
            threads = [threading.Thread(target=barrier, args=(one, number, f"step{step}")) for one in stores]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append(time.monotonic() - began)
        for store in stores:
            store.close()
    return {"a request, us": one * 1e6, "a barrier of all clients, ms": statistics.median(times) * 1e3}


def show(title: str, found: Mapping[int, Mapping[str, float]]) -> None:
    """The table, with a line through each row."""
    print(f"{title:36}" + "".join(f"{number:>10}" for number in found), flush=True)
    for name in next(iter(found.values())):
        values = [row[name] for row in found.values()]
        line = ""
        if len(values) > 1:
            slope, base = statistics.linear_regression(list(found), values)
            line = f"   = {base:.3g} + {slope:.3g} n"
        print(f"{name:36}" + "".join(f"{value:>10.4g}" for value in values) + line, flush=True)


def main(sizes: list[int]) -> None:
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    show("ranks", {size: session(size) for size in sizes})
    show("clients of one server", {number: clients(number) for number in CLIENTS})


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [16, 64, 256])
