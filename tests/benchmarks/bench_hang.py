"""What the report of a hang costs and how fast it is there: `python tests/benchmarks/bench_hang.py [part ...]`.

`verdict`: from the last event at the server to the verdict, 8 real ranks of which one leaves.  `report`: from a
hung barrier with a timeout of 300 s to the finished report of pytest.  `tracking`: 50 barriers of 64 ranks, the
hang detector on and off in turns.  `stacks`: from the request to 8 ranks' stacks, and to their merged report.
`corpus`: recall on the kernels of `tests/hang/corpus`.  Printed are medians, with the goals beside them.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pytest_elastic.loop import Loop

HERE = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
ROUNDS = 20

LEAVING = f"""
import pytest

@pytest.mark.elastic(nprocs=8)
@pytest.mark.parametrize("turn", range({ROUNDS}))
def test_leaving(world, turn):
    if world.rank == turn % 8:
        return
    world.barrier("epoch", timeout=300)
"""
STAMPED = """
import time
import pytest

@pytest.mark.elastic(nprocs=4)
def test_hang(world):
    if world.rank == 1:
        with open("began", "w") as file:
            file.write(str(time.monotonic()))
        return
    world.barrier("epoch", timeout=300)
"""
STAMP = """
import time
import pytest

@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    with open("ended", "w") as file:
        file.write(str(time.monotonic()))
"""


def run(directory: Path, code: str, *arguments: str, conftest: str = "") -> str:
    (directory / "test_it.py").write_text(code)
    (directory / "conftest.py").write_text(conftest)
    # Nothing of other runs is cleared away meanwhile.
    command = [*PYTEST, f"--basetemp={directory / 'base'}", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False).stdout


def diagnoses(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in directory.glob(".pytest_elastic/*/hang.json")]


def verdict(directory: Path) -> None:
    """From the last event to the verdict."""
    output = run(directory, LEAVING)
    spans = [found["elapsed"] * 1000 for found in diagnoses(directory)]
    assert len(spans) == ROUNDS, output
    spread = f"least {min(spans):.2f}, most {max(spans):.2f}, {len(spans)} rounds"
    print(f"verdict, 8 ranks: {statistics.median(spans):.2f} ms after the last event ({spread}; goal: 1 ms)")


def report(directory: Path) -> None:
    """From the hung barrier to the finished report."""
    spans = []
    for _ in range(5):
        run(directory, STAMPED, conftest=STAMP)
        spans.append(float((directory / "ended").read_text()) - float((directory / "began").read_text()))
    print(
        f"report of a barrier with a timeout of 300 s: {statistics.median(spans):.2f} s"
        f" (least {min(spans):.2f}, most {max(spans):.2f}, {len(spans)} rounds; goal: 1 s)"
    )


def barriers(sink: Any, ranks: int = 64, rounds: int = 50) -> tuple[float, float, float]:
    """Seconds for these barriers, of the server's processor time, and for telling of them once they are over.

    Each rank is a thread of one of four processes.
    """
    import os

    from pytest_elastic.store import RemoteStore, StoreServer, barrier

    with StoreServer(sink=sink) as server:
        server.tell_when(ranks + 1)  # The observer waits, too.
        pairs = [server.pair(rank) for rank in range(ranks)]
        go, gone = os.pipe()
        children = []
        for part in range(4):
            pid = os.fork()
            if pid == 0:
                os.close(gone)
                mine = [(rank, RemoteStore(pairs[rank])) for rank in range(part, ranks, 4)]

                def work(rank: int, store: RemoteStore) -> None:
                    barrier(store, ranks, "start", rank=rank)
                    os.read(go, 1)
                    for number in range(rounds):
                        barrier(store, ranks, str(number), rank=rank)

                threads = [threading.Thread(target=work, args=one) for one in mine]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                os._exit(0)
            children.append(pid)
        for pair in pairs:
            pair.close()
        observer = server.store("observer")
        observer.wait(["start/last_member"])
        clock = time.pthread_getcpuclockid(server.loop.call(threading.get_ident))
        began, used = time.perf_counter(), time.clock_gettime(clock)
        os.close(gone)  # All read the end of the pipe.
        observer.wait([f"{rounds - 1}/last_member"])
        took, used = time.perf_counter() - began, time.clock_gettime(clock) - used
        told = time.clock_gettime(clock)
        server.loop.call(server.tell)
        told = time.clock_gettime(clock) - told
        for pid in children:
            os.waitpid(pid, 0)
        observer.close()
        os.close(go)
        return took, used, told


class Nobody:
    """A group for a hang detector that never finds anything."""

    def __init__(self) -> None:
        self.server, self.loop = self, Loop()

    listens = False

    def tell_when(self, blocked: int) -> None:
        """It is told when all wait, as where ranks are in a phase."""


def tracking(directory: Path) -> None:
    """50 barriers of 64 ranks, with and without."""
    from pytest_elastic.launch._hang_detector import HangDetector

    on, off = [], []
    for _ in range(15):
        off.append(barriers(None))
        on.append(barriers(HangDetector(Nobody(), 64, "real", False).sink))  # type: ignore[arg-type]
    told = statistics.median(row[2] for row in on) * 1000
    for side, what in enumerate(("by the clock", "of the server's processor time")):
        tracked, plain = (sorted(row[side] * 1000 for row in rows) for rows in (on, off))
        ratio = statistics.median(tracked) / statistics.median(plain)
        print(
            f"50 barriers of 64 ranks, {what}: {statistics.median(tracked):.0f} ms tracked (least {tracked[0]:.0f}),"
            f" {statistics.median(plain):.0f} ms not (least {plain[0]:.0f}): {(ratio - 1) * 100:+.1f} % (goal: 10 %)"
        )
    print(f"  when nothing is left to do, what was noted is told in {told:.0f} ms")


STACKS = """
import pathlib, statistics, time
from pytest_elastic.hang import Diagnosis, Snapshot, report_text

def wait(rank, world_size):
    time.sleep(60)

def test_stacks(elastic):
    group = elastic.start(wait, nprocs=8)
    taken, merged = [], []
    for _ in range(20):
        began = time.perf_counter()
        stacks = group.stacks(list(range(8)))
        middle = time.perf_counter()
        report_text(Diagnosis((), (), "", snapshot=Snapshot(8)), stacks)
        merged.append((time.perf_counter() - middle) * 1000)
        taken.append((middle - began) * 1000)
    pathlib.Path("result").write_text(f"{statistics.median(taken)} {statistics.median(merged)}")
"""


def stacks(directory: Path) -> None:
    """Eight ranks' stacks, taken and merged."""
    output = run(directory, STACKS)
    assert (directory / "result").exists(), output
    taken, merged = map(float, (directory / "result").read_text().split())
    print(f"stacks of 8 ranks: taken in {taken:.1f} ms, merged in {merged:.2f} ms (goal: 20 ms for both)")


def corpus(directory: Path) -> None:
    """Recall, and accusations of the twins."""
    command = [*PYTEST, str(HERE.parent / "hang" / "test_corpus.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"corpus (a test for each kernel, one for each twin): {done.stdout.strip().splitlines()[-1]}")
    for line in re.findall(r"^FAILED .*", done.stdout, re.MULTILINE):
        print(f"  {line}")


PARTS = {"verdict": verdict, "report": report, "tracking": tracking, "stacks": stacks, "corpus": corpus}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))
