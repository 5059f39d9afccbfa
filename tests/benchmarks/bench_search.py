"""Searching and proving: `python tests/benchmarks/bench_search.py [PYTHON]`.

Printed are the executions to the first failure of each kernel of the corpus, what its repaired twin costs to prove,
proofs of the barrier with and without kills, and, with the interpreter of an environment that has `frontrun` or
`interleave-test`, the same kernels under those.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulator.corpus import KERNELS  # noqa: E402
from simulator.programs import exchange  # noqa: E402

from pytest_elastic.simulator import (  # noqa: E402
    NotExhaustedError,
    RankFailed,
    Setting,
    Simulation,
    explore,
    prove,
    prove_kills,
)
from pytest_elastic.simulator._search import search_of  # noqa: E402

PEERS = Path(__file__).with_name("bench_search_peers.py")
ROUNDS = 5


def timed(call: Callable[[], Any]) -> tuple[str, Any]:
    """Time passed and processor time in milliseconds, medians of some rounds; and the last answer."""
    passed, used = [], []
    for _ in range(ROUNDS):
        started, began = time.perf_counter(), time.process_time()
        answer = call()
        passed.append((time.perf_counter() - started) * 1000)
        used.append((time.process_time() - began) * 1000)
    return f"{statistics.median(passed):.1f} ms ({statistics.median(used):.1f} ms of CPU)", answer


def first_failure(function: Any, setting: Setting, strategy: str, seed: int = 0) -> int | None:
    """Which execution of a search fails first; `None` if none does."""
    with Simulation(function, setting) as simulation:
        search = search_of(strategy, simulation, 2000, seed)
        _, scheduler = next(search)
        for number in range(1, 2001):
            execution = simulation.run(scheduler)
            if execution.verdict is not None:
                return number
            try:
                _, scheduler = search.send(execution)
            except StopIteration:
                break
    return None


def kernels() -> None:
    print(
        f"{'kernel':24}{'auto':>6}{'dpor':>6}{'random':>8}{'pos':>6}{'pct2':>6}{'pct3':>6}   twin: traces, ms"
    )
    firsts, missed, alarms = [], [], []
    for kernel in KERNELS:
        setting = Setting(kernel.ranks, **kernel.options)
        row: list[Any] = [first_failure(kernel.buggy, setting, name) for name in ("auto", "dpor")]
        for name in ("random", "pos", "pct2", "pct3"):
            seeds = [first_failure(kernel.buggy, setting, name, seed) for seed in range(10)]
            row.append(statistics.mean(seeds) if None not in seeds else None)
        if not kernel.always:
            firsts.append(row[0])
        missed += [] if row[0] else [kernel.name]
        started = time.perf_counter()
        try:
            traces: Any = prove(kernel.fixed, kernel.ranks, **kernel.options).traces
        except (NotExhaustedError, RankFailed) as error:
            traces = error
            alarms.append(kernel.name)
        spent = (time.perf_counter() - started) * 1000
        shown = "".join(
            f"{'-' if cell is None else format(cell, '.4g'):>{width}}"
            for cell, width in zip(row, (6, 6, 8, 6, 6, 6), strict=True)
        )
        print(f"{kernel.number:3} {kernel.name:20}{shown}   {traces}, {spent:.0f}")
    found = len(KERNELS) - len(missed)
    print(f"found {found} of {len(KERNELS)}; alarms on twins: {len(alarms)}; random ones: mean of 10 seeds")
    median = statistics.median(firsts)
    print(f"schedule-dependent kernels, executions to the first failure: median {median} (goal: 3)")


def survive(rank: int, world_size: int, store: Any) -> None:
    """`exchange`, by a rank that gives up when others do not come."""
    try:
        exchange(rank, world_size, store)
    except RuntimeError:
        pass


def proofs() -> None:
    for ranks in (2, 3, 4):
        spent, certificate = timed(lambda ranks=ranks: prove(exchange, ranks))
        goal = " (goal: 50 executions, 50 ms)" if ranks == 3 else ""
        print(f"prove, 2 barriers: {certificate}: {spent}{goal}")
    for ranks in (2, 3, 4):
        spent, certificates = timed(lambda ranks=ranks: prove_kills(survive, ranks))
        executions = sum(each.executions for each in certificates.values())
        goal = " (goal: 1 s)" if ranks == 3 else ""
        what = f"{ranks} ranks, 2 barriers, {len(certificates)} single kills"
        print(f"{what}: {executions} executions, {spent}{goal}")
    spent, found = timed(lambda: explore(exchange, 3))
    print(f"explore: {found.schedules} schedules, exhausted: {found.exhausted}: {spent}")


def peers(python: str) -> None:
    """The other tools, each in its own interpreter."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    wrapper = Path(python).with_name("frontrun")  # It wants to be started by its own command.
    command = [*([str(wrapper)] if wrapper.exists() else []), python, str(PEERS)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.count("\t") == 4:
            tool, kernel, schedules, seconds, end = line.split("\t")
            print(f"{tool:18}{kernel:20}{schedules:>7} schedules {float(seconds):>7.2f} s  {end}")


if __name__ == "__main__":
    logging.getLogger("pytest_elastic").setLevel(logging.ERROR)
    kernels()
    proofs()
    if len(sys.argv) > 1:
        peers(sys.argv[1])
