"""What adoption saves: `python tests/benchmarks/bench_adopt.py [rounds] [spawn|case|pool|off]`.

Tests that start processes themselves, as they are and adopted: `torch.multiprocessing.spawn` of four processes
that have torch imported and do nothing, a test of torch's `MultiProcessTestCase` with a gloo group of four
(needs `expecttest`), and one that runs on such a group in a pool of the context `forkserver`, which it makes for
itself, as the `DistributedTest` of DeepSpeed's suite does.  Measured is the call of the test: pytest's own start
and the imports of the module are in no side.  Sides take turns, each is a fresh pytest.

`off` tells what the plugin costs where the option is off, against a pytest without the plugin: small tests
that start and join a process of `multiprocessing`, by spawn and by fork.  Measured is the processor's time in
pytest's process, where the plugin is: the other one is a hundred times dearer by spawn, and the same on both
sides.  In each round both sides run one after the other, and give one ratio of their best calls, which other
work on the machine disturbs least; printed are the median of the ratios and the middle half of them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
ADOPTED = 5  # How often an adopted test is repeated in one session.
SPAWN = """
import pytest, targets, torch.multiprocessing as mp

def test_spawn(turn):
    mp.spawn(targets.nothing, nprocs=4)
"""
TARGETS = """
import torch

def nothing(rank):
    pass

def member(rank, size, port, kind, name, args):
    where = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
    getattr(kind(), name)(*args)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
GOALS = {"spawn": 20, "case": 20, "pool": 15}
OFF = """
import multiprocessing
import resource
import time

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def test_process(turn, record_property):
    before = used()
    process = multiprocessing.get_context("METHOD").Process(target=time.time)
    process.start()
    process.join()
    assert process.exitcode == 0
    record_property("seconds", used() - before)
"""
OFF_CALLS = {"spawn": 40, "fork": 100}  # In one session.
CASE = """
import os
import pytest, torch
import torch.distributed as dist
from torch.testing._internal.common_distributed import MultiProcessTestCase

class TestSum(MultiProcessTestCase):
    world_size = 4

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def tearDown(self):
        super().tearDown()
        if os.path.exists(self.file_name):
            os.remove(self.file_name)

    def sums(self):
        store = dist.FileStore(self.file_name, self.world_size)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.world_size)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total == 4

for turn in range(int(os.environ["TURNS"])):
    setattr(TestSum, f"test_sum_{turn}", lambda self: self.sums())
"""
POOL = """
import socket
import targets, torch
import torch.multiprocessing as mp

class Distributed:
    world_size = 4

    def launch(self, name, *args):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pool = mp.get_context("forkserver").Pool(self.world_size)
        calls = [(rank, self.world_size, port, type(self), name, args) for rank in range(self.world_size)]
        try:
            pool.starmap_async(targets.member, calls, chunksize=1).get(600)
        finally:
            pool.terminate()
            pool.join()

class TestPool(Distributed):
    def test_sum(self, turn):
        self.launch("sums", 4)

    def sums(self, expected):
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        assert total == expected
"""
CONFTEST = """
import os
import pytest

def pytest_generate_tests(metafunc):
    if "turn" in metafunc.fixturenames:
        metafunc.parametrize("turn", range(int(os.environ["TURNS"])))

def pytest_runtest_logreport(report):
    if report.when == "call":
        with open("seconds", "a") as file:
            print(dict(report.user_properties).get("seconds", report.duration), file=file)
"""
Side = tuple[str, tuple[str, ...], int]


def measured(directory: Path, side: Side) -> list[float]:
    """Seconds of the calls of a session's tests, which must all pass."""
    file, arguments, turns = side
    seconds = directory / "seconds"
    seconds.unlink(missing_ok=True)
    environment = {**os.environ, "TURNS": str(turns)}
    command = [*PYTEST, *arguments, file]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return [float(line) for line in seconds.read_text().split()]


def compare(directory: Path, rounds: int, sides: dict[str, Side]) -> dict[str, list[float]]:
    """The sides by turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else reversed(sides):
            seconds = measured(directory, sides[name])
            print(f"  {name}: {', '.join(f'{one:.3f}' for one in seconds)} s", file=sys.stderr)
            found[name] += seconds
    return found


def overhead(directory: Path, rounds: int) -> None:
    """Print what the plugin costs where the option is off."""
    for method, turns in OFF_CALLS.items():
        file = f"test_off_{method}.py"
        (directory / file).write_text(OFF.replace("METHOD", method))
        sides: dict[str, Side] = {
            "off": (file, (), turns),
            "without the plugin": (file, ("-p", "no:pytest_elastic"), turns),
        }
        pairs = []
        for turn in range(rounds):
            names = list(sides) if turn % 2 else list(reversed(sides))
            found = {name: min(measured(directory, sides[name])) for name in names}
            pairs.append((found["off"], found["without the plugin"]))
        ratios = sorted(off / without for off, without in pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = [statistics.median(column) * 1000 for column in zip(*pairs, strict=True)]
        print(
            f"{method}: off {milliseconds[0]:.2f} ms, without the plugin {milliseconds[1]:.2f} ms; "
            f"ratio {middle:.3f} ({low:.3f} to {high:.3f}; {rounds} rounds of {turns} calls; goal: 1)"
        )


def main(rounds: int, part: str) -> None:
    sides: dict[str, Side] = {
        "spawn, as it is": ("test_spawn.py", (), 1),
        "spawn, processes": ("test_spawn.py", ("--elastic-adopt=processes",), ADOPTED),
        "pool, as it is": ("test_pool.py", (), 1),
        "pool, processes": ("test_pool.py", ("--elastic-adopt=processes",), ADOPTED),
    }
    if find_spec("expecttest"):
        sides |= {
            "case, as it is": ("test_case.py", (), 1),
            "case, processes": ("test_case.py", ("--elastic-adopt=processes",), ADOPTED),
            "case, torch": ("test_case.py", ("--elastic-adopt=torch",), ADOPTED),
        }
    sides = {name: side for name, side in sides.items() if name.startswith(part)}
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        for name, code in (
            ("test_spawn", SPAWN), ("targets", TARGETS), ("test_case", CASE), ("test_pool", POOL),
            ("conftest", CONFTEST),
        ):  # fmt: skip
            (directory / f"{name}.py").write_text(code)
        began = time.perf_counter()
        if part in ("", "off"):
            overhead(directory, max(rounds, 4))
        found = compare(directory, rounds, sides)
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        kind, _, side = name.partition(", ")
        ratio = medians[f"{kind}, as it is"] / medians[name]
        goal = "" if side == "as it is" else f"  x {ratio:.0f} faster (goal: {GOALS[kind]})"
        print(f"{name:<26} {medians[name]:8.3f} s (best {min(values):.3f}, {len(values)} calls){goal}")
    print(f"{rounds} rounds in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["3"])[0]), (sys.argv[2:] or [""])[0])
