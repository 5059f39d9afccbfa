"""The simulator: throughput, shrinking, fidelity of replays: `python tests/benchmarks/bench_simulator.py`.

Rates are the best of many short samples, since a busy machine can only make them worse.
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from pytest_elastic.simulator import (
    Decision,
    Execution,
    Setting,
    Simulation,
    SparseScheduler,
    _simulation,
    compare,
    confirm,
    parse_token,
    schedule_of,
    shrink,
    simulate,
)
from pytest_elastic.simulator._crew import GreenletCrew, ThreadCrew

sys.path.insert(0, str(Path(__file__).parent.parent))  # The corpus is with the tests.
from simulator.corpus import KERNELS, Kernel

SAMPLES, RUNS, REPLAYS = 2000, 20, 50


def twenty_steps(rank: int, world_size: int, store: Any) -> None:
    """On three ranks: 20 steps, two of them waits that block, one barrier."""
    store.add("a", 1)
    store.set(f"x{rank}", "1")
    store.barrier("b", world_size)
    store.get(f"x{(rank + 1) % world_size}")
    store.check([f"x{r}" for r in range(world_size)])
    store.add("c", 1)
    if rank < 2:
        store.add("d", 1)


def schedules_per_second(crew: type) -> float:
    """Whole executions, each under another schedule, records and verdicts included."""
    _simulation.make_crew = crew
    best = float("inf")
    with Simulation(twenty_steps, Setting(3)) as simulation:
        assert len(simulation.run(SparseScheduler(())).steps) == 20
        for _ in range(SAMPLES):
            began = time.perf_counter()
            for number in range(RUNS):
                simulation.run(SparseScheduler([(number % 12, 1)]))
            best = min(best, time.perf_counter() - began)
    return RUNS / best


class RandomWalk:
    """Any enabled step is as good as another."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)

    def choose(self, decision: Decision) -> int:
        return self._source.randrange(len(decision.steps))


def fail_noisily(kernel: Kernel) -> Execution:
    """Of the failures of 300 random walks, the one with the most delays."""
    found = []
    with Simulation(kernel.buggy, Setting(kernel.ranks, **kernel.options)) as simulation:
        for seed in range(300):
            execution = simulation.run(RandomWalk(seed))
            if execution.verdict is not None:
                found.append(execution)
    return max(found, key=lambda execution: len(execution.delays))


def replays(kernel: Kernel, failure: Execution) -> int:
    """How many of 50 runs by the token are the same, step by step."""
    schedule = parse_token(str(schedule_of(failure)))
    may_timeout = failure.setting.may_timeout
    runs = [simulate(kernel.buggy, schedule, may_timeout=may_timeout) for _ in range(REPLAYS)]
    return sum(compare(failure, run) is None and run.steps == failure.steps for run in runs)


def show_shrinking() -> None:
    print(f"\n{'kernel':24} {'delays':>6} {'left':>5} {'token':32} {'shrink':>8} {'again':>6} {'replays':>8}")
    times = []
    for kernel in KERNELS:
        failure = fail_noisily(kernel)
        began = time.perf_counter()
        best = shrink(kernel.buggy, failure)
        times.append(time.perf_counter() - began)
        again = "10/10" if confirm(kernel.buggy, best) is best else "no"
        same = replays(kernel, failure)
        print(
            f"{kernel.name:24} {len(failure.delays):6} {len(best.delays):5} {schedule_of(best)!s:32}"
            f" {times[-1] * 1000:5.0f} ms {again:>6} {same:5}/{REPLAYS}",
            flush=True,
        )
    print(
        f"shrinking: median {statistics.median(times) * 1000:.0f} ms, longest {max(times) * 1000:.0f} ms (goal: 1 s)"
    )


def main() -> None:
    logging.disable()  # The kernels make barriers warn.
    usual = _simulation.make_crew
    for crew, goal in ((ThreadCrew, 4000), (GreenletCrew, 10_000)):
        rate = schedules_per_second(crew)
        print(
            f"{crew.__name__:14} {rate:8,.0f} schedules/s of 20 steps on 3 ranks (goal: {goal:,})", flush=True
        )
    _simulation.make_crew = usual
    show_shrinking()


if __name__ == "__main__":
    main()
