"""`TailLog` beside torch's, both in one run: `python tests/benchmarks/bench_tail_log.py`.

Prints medians and ratios of: lines per second (all lines are there when the tail starts; the clock stops
when `stop()` has returned), processor time while nothing happens, and the way of one line to `dst`.  Then,
ours alone: the memory that a line of 40 MB and a flood of lines take.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.tail_log import TailLog as TorchTailLog

from pytest_elastic.multiprocessing.tail_log import TailLog

SIDES = {"ours": TailLog, "torch": TorchTailLog}
LINES = 100_000
ROUNDS = 9


class Arrivals:
    """A `dst` that notes when something came."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.at = 0.0

    def write(self, text: str) -> None:
        self.at = time.perf_counter()
        self.came.set()


class Counter:
    """A `dst` that counts."""

    lines = 0

    def write(self, text: str) -> None:
        self.lines += text.count("\n")


def show(what: str, unit: str, values: dict[str, list[float]], *, more_is_better: bool) -> None:
    ours, torch = (statistics.median(values[side]) for side in SIDES)
    ratio = ours / torch if more_is_better else torch / ours
    print(f"{what:32} ours {ours:14,.3f} {unit:8} torch {torch:14,.3f} {unit:8} {ratio:8.1f} x")


def bench_lines(directory: Path, count: int) -> None:
    files = {rank: str(directory / f"{count}_{rank}.log") for rank in range(count)}
    for path in files.values():
        Path(path).write_text("".join(f"step {n} of the training, loss 0.25\n" for n in range(LINES)))
    speeds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side, tail in SIDES.items():
            time.sleep(0.1)  # What the tail before left to the kernel to clean up is not this one's time.
            with open(os.devnull, "w") as dst:
                begin = time.perf_counter()
                tail("trainer", files, dst).start().stop()
                speeds[side].append(count * LINES / (time.perf_counter() - begin))
    show(f"{count} x {LINES} lines", "lines/s", speeds, more_is_better=True)


def bench_idle(directory: Path, count: int = 32, span: float = 3.0) -> None:
    files = {rank: str(directory / f"idle_{rank}.log") for rank in range(count)}
    for path in files.values():
        Path(path).write_text("one line\n")
    used: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(3):
        for side, tail in SIDES.items():
            with open(os.devnull, "w") as dst:
                running = tail("trainer", files, dst).start()
                time.sleep(0.3)
                begin = time.process_time()
                time.sleep(span)
                used[side].append((time.process_time() - begin) / span * 1e3)
                running.stop()
    show(f"idle, {count} files", "ms/s", used, more_is_better=False)


def bench_latency(directory: Path, count: int = 32) -> None:
    delays: dict[str, list[float]] = {side: [] for side in SIDES}
    for side, tail in SIDES.items():
        files = {rank: str(directory / f"{side}_{rank}.log") for rank in range(count)}
        arrivals = Arrivals()
        running = tail("trainer", files, arrivals).start()
        with open(files[0], "w", buffering=1) as writer:
            for n in range(40):
                time.sleep(0.0137 * (n % 7))
                arrivals.came.clear()
                begin = time.perf_counter()
                writer.write("a line\n")
                arrivals.came.wait()
                delays[side].append((arrivals.at - begin) * 1e3)
        running.stop()
    show(f"line to dst, {count} files", "ms", delays, more_is_better=False)


class Peak:
    """The most memory this process had while the block ran, above what it had before, in MB."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")  # The kernel's high-water mark begins again.
        self._before = self._status("VmRSS")
        return self

    def __exit__(self, *exc: object) -> None:
        self.megabytes = (self._status("VmHWM") - self._before) / 1e6

    def _status(self, field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def bench_memory(directory: Path, flood_bytes: int = 2_000_000_000) -> None:
    for what, piece, times in (
        ("one line of 40 MB", b"x" * 1_000_000, 40),
        ("a flood of 2 GB", b"0123456789abcdef" * 6 + b"abc\n", flood_bytes // 100),
    ):
        path, counter = directory / "big.log", Counter()
        with Peak() as peak:
            running = TailLog("trainer", {0: str(path)}, counter).start()
            with open(path, "wb", buffering=1 << 20) as writer:
                for _ in range(times):
                    writer.write(piece)
            running.stop()
        path.unlink()
        print(f"{what:32} ours {peak.megabytes:14,.1f} MB, {counter.lines:,} lines")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for count in (1, 8, 32):
            bench_lines(directory, count)
        bench_latency(directory)
        bench_idle(directory)
        bench_memory(directory)


if __name__ == "__main__":
    main()
