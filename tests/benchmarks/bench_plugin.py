"""What tests on ranks cost: `python tests/benchmarks/bench_plugin.py [speed|idle|memory ...]`.

`speed`: trivial tests on 4 ranks with torch imported, against `torch.multiprocessing.spawn` and against
the floor, which is four forks that end at once.  `idle`: what the plugin adds to a run without such tests.
`memory`: what a rank holds that no other process shares.  Rounds alternate between the sides, each side is
a fresh process, and printed are medians; the goals are printed beside them and enforced by nobody.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = 4
TESTS = 100
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
# The cost of the plugin is not that of compiling it anew in each run.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

TRIVIAL = f"""
import pytest, torch

@pytest.mark.elastic(nprocs={RANKS})
@pytest.mark.parametrize("turn", range({TESTS}))
def test_trivial(turn):
    pass
"""
# From the first hook of the run loop to the last: all but pytest's own start and the collection.
LOOP_TIMER = """
import time
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    began = time.perf_counter()
    result = yield
    with open("seconds", "w") as file:
        file.write(str((time.perf_counter() - began) / len(session.items)))
    return result
"""
FLOOR = f"""
import os, statistics, time, torch

def forks():
    began = time.perf_counter()
    pids = []
    for _ in range({RANKS}):
        pids.append(os.fork())
        if pids[-1] == 0:
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    return time.perf_counter() - began

found = sum(forks() for _ in range({TESTS})) / {TESTS}
with open("seconds", "w") as file:
    file.write(str(found))
"""
SPAWN = f"""
import time
import torch.multiprocessing

def trivial(rank):
    pass

if __name__ == "__main__":
    began = time.perf_counter()
    torch.multiprocessing.spawn(trivial, nprocs={RANKS})
    with open("seconds", "w") as file:
        file.write(str(time.perf_counter() - began))
"""
UNIQUE_MEMORY = f"""
import psutil, pytest, torch

@pytest.mark.elastic(nprocs={RANKS})
def test_memory(world):
    found = world.gather(psutil.Process().memory_full_info().uss)  # Nobody has ended when any of them looks.
    if world.rank == 0:
        with open("bytes", "w") as file:
            file.write(str(max(found)))
"""


def run(directory: Path, *command: str) -> tuple[float, float]:
    """Seconds of wall time and of CPU time for a command that must succeed."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(directory: Path, *command: str) -> float:
    """The seconds that the command wrote down itself."""
    run(directory, *command)
    return float((directory / "seconds").read_text())


def milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.1f} ms (best {min(values) * 1e3:.1f})"


def speed(directory: Path, rounds: int = 5) -> None:
    (directory / "conftest.py").write_text(LOOP_TIMER)
    for name, code in (("test_trivial", TRIVIAL), ("floor", FLOOR), ("spawn", SPAWN)):
        (directory / f"{name}.py").write_text(code)
    ours, floor, spawn = [], [], []
    for _ in range(rounds):
        ours.append(measured(directory, *PYTEST, "test_trivial.py"))
        floor.append(measured(directory, sys.executable, "-W", "ignore", "floor.py"))
        spawn.append(measured(directory, sys.executable, "spawn.py"))
    per_test = statistics.median(ours)
    faster, slower = statistics.median(spawn) / per_test, per_test / statistics.median(floor)
    print(f"a test of {RANKS} ranks, torch imported   {milliseconds(ours)}")
    print(f"torch.multiprocessing.spawn         {milliseconds(spawn)}: x {faster:.0f} faster (goal: 60)")
    print(f"{RANKS} forks that end at once           {milliseconds(floor)}: x {slower:.1f} slower (goal: 3)")


def idle(directory: Path, pairs: int = 40) -> None:
    for tests in (1, 200):
        name = f"test_{tests}.py"
        lines = [f"def test_{number}(): pass" for number in range(tests)]
        (directory / name).write_text("\n".join(lines))
        commands = ([*PYTEST, name], [*PYTEST, "-p", "no:pytest_elastic", name])
        for command in commands:  # The files' bytecode is there from now on.
            run(directory, *command)
        found = []
        for turn in range(pairs):
            order = 1 if turn % 2 else -1  # Neither side is always the first of its pair.
            found.append([run(directory, *command) for command in commands[::order]][::order])
        wall, cpu = (
            statistics.median(with_it[kind] - without[kind] for with_it, without in found) * 1e3
            for kind in (0, 1)
        )
        print(f"{tests:3} ordinary tests: the plugin adds {wall:.1f} ms, {cpu:.1f} ms of CPU (goal: 10)")


def memory(directory: Path) -> None:
    (directory / "test_memory.py").write_text(UNIQUE_MEMORY)
    run(directory, *PYTEST, "test_memory.py")
    most = int((directory / "bytes").read_text()) / 2**20
    print(f"unique memory of a rank, the most of {RANKS}: {most:.1f} MiB (goal: 15)")


PARTS = {"speed": speed, "idle": idle, "memory": memory}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as made:
            PARTS[part](Path(made))
