"""The same kernels under the tools for threads that are on the package index: for `bench_search.py`.

Run by the interpreter of an environment that has `frontrun` or `interleave-test` (both, if it can be), with this
repository on its path.  The store is the plainest that there is: a dict, a lock and a condition.  Both tools
also schedule the bytecode, or the lines, *inside* the store, which our simulator takes as one step.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from simulator.corpus.barriers import nonatomic_counter
from simulator.corpus.leaders import crossed_locks, hasty_follower
from simulator.corpus.waits import lost_wakeup
from simulator.programs import exchange

KERNELS = [(nonatomic_counter, 3), (hasty_follower, 3), (crossed_locks, 2), (lost_wakeup, 2), (exchange, 3)]
LIMIT, SECONDS = 2000, 45.0
NOTHING = "nothing found, not exhausted"


class PlainStore:
    """What the kernels need of a store; a wait has no end."""

    timeout = timedelta(seconds=300)

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changed = threading.Condition()

    def set_timeout(self, timeout: timedelta) -> None:
        pass

    def _write(self, key: str, value: Any) -> None:
        self.values[key] = value if isinstance(value, bytes) else str(value).encode()
        self.changed.notify_all()

    def set(self, key: str, value: Any) -> None:
        with self.changed:
            self._write(key, value)

    def add(self, key: str, amount: int) -> int:
        with self.changed:
            total = int(self.values.get(key, b"0")) + amount
            self._write(key, total)
            return total

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        with self.changed:
            present = self.values.get(key)
            if present == expected.encode() or (present is None and not expected):
                self._write(key, desired)
                return desired.encode()
            return present or expected.encode()

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self.values[key]

    def wait(self, keys: list[str]) -> None:
        with self.changed:
            while not all(key in self.values for key in keys):
                self.changed.wait()

    def check(self, keys: list[str]) -> bool:
        with self.changed:
            return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> bool:
        with self.changed:
            return self.values.pop(key, None) is not None


def under_frontrun(program: Any, ranks: int) -> tuple[str, int]:
    import frontrun

    def rank_of(rank: int) -> Any:
        return lambda store: program(rank, ranks, store)

    result = frontrun.explore(
        setup=PlainStore,
        workers=[rank_of(rank) for rank in range(ranks)],
        invariant=lambda store: True,
        clock="virtual",
        preemption_bound=None,
        max_executions=LIMIT,
        total_timeout=SECONDS,
        reproduce_on_failure=0,
    )
    return "found" if result.property_holds is False else NOTHING, result.num_explored


def under_interleave_test(program: Any, ranks: int) -> tuple[str, int]:
    import interleave_test

    schedules = 0

    def model() -> None:
        nonlocal schedules
        schedules += 1
        store = PlainStore()
        tasks = [interleave_test.spawn(program, rank, ranks, store) for rank in range(ranks)]
        for task in tasks:
            task.join()

    started = time.monotonic()
    try:
        while schedules < LIMIT and time.monotonic() - started < SECONDS:
            interleave_test.explore(model, iterations=100, seed=schedules, granularity="line")
    except Exception as error:
        return f"found ({type(error).__name__})", schedules
    return NOTHING, schedules


def main() -> None:
    for package, run in (("frontrun", under_frontrun), ("interleave_test", under_interleave_test)):
        if importlib.util.find_spec(package) is None:
            continue
        for program, ranks in KERNELS:
            started = time.monotonic()
            try:
                end, schedules = run(program, ranks)
            except Exception as error:
                end, schedules = f"{type(error).__name__}: {error}"[:60].replace("\n", " "), -1
            print(
                package,
                program.__name__,
                schedules,
                f"{time.monotonic() - started:.2f}",
                end,
                sep="\t",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
