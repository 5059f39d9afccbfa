"""How long anything of a run outlives pytest's SIGKILL: `python tests/benchmarks/bench_survival.py [rounds]`.

The ranks are the kinds of `tests/plugin/test_survival.py`.  Every process of the run carries a mark in its
environment, which it inherits.  A look reads the environments of the processes that were not there when
pytest was started; that takes about a millisecond, so that the benchmark does not measure itself.  One look
may miss a process that is just forking or executing, and misses a fork storm nearly always: so zero counts
from the first look of `QUIET` seconds in which every look was empty and nobody held a pipe that pytest was
given.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent.parent / "plugin" / "test_survival.py"
GOAL = 0.2
QUIET = 0.05
LIMIT = 5.0


def processes() -> set[str]:
    return {name for name in os.listdir("/proc") if name.isdigit()}


def look(mark: bytes, old: set[str]) -> list[int]:
    """The living processes that carry the mark; zombies have no environment any more."""
    found = []
    for name in processes() - old:
        try:
            with open(f"/proc/{name}/environ", "rb", buffering=0) as file:
                if mark in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def start(directory: Path, kind: str, mark: str, holds: int) -> subprocess.Popen[bytes]:
    """A pytest whose two ranks are up; they inherit the descriptor."""
    running = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_ranks.py"],
        cwd=directory,
        env={**os.environ, "KIND": kind, "MARK": mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=[holds],
    )
    os.close(holds)
    deadline = time.monotonic() + 60
    while not all((directory / f"up{rank}").exists() for rank in range(2)):
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the ranks of kind {kind!r} did not come up")
        time.sleep(0.005)
    time.sleep(0.05)  # What a rank starts after it is up, a storm say, has begun.
    return running


def time_to_zero(mark: bytes, old: set[str], held: int, began: float) -> float:
    """Seconds from the signal until nothing was left; infinity past `LIMIT`."""
    empty_since = None
    while (now := time.perf_counter()) - began < LIMIT:
        if not select.select([held], [], [], 0)[0] or look(mark, old):
            empty_since = None
        elif empty_since is None:
            empty_since = now
        elif now - empty_since > QUIET:
            return empty_since - began
        time.sleep(0.001)
    return float("inf")


def kill_pytest(code: str, kind: str) -> float:
    """One round: seconds until nothing was left."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        (directory / "test_ranks.py").write_text(code)
        mark = f"{os.getpid()}-{time.monotonic_ns()}-survivor"
        old = processes()
        held, holds = os.pipe()
        running = start(directory, kind, mark, holds)
        try:
            began = time.perf_counter()
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            return time_to_zero(mark.encode(), old, held, began)
        finally:
            os.close(held)
            for pid in look(mark.encode(), old):
                os.kill(pid, signal.SIGKILL)


def main(rounds: int) -> None:
    given: dict[str, Any] = runpy.run_path(str(SOURCE))
    print(f"within {GOAL * 1e3:.0f} ms of pytest's SIGKILL, of {rounds} runs each:")
    for kind in given["KINDS"]:
        times = [kill_pytest(given["RANKS"], kind) for _ in range(rounds)]
        good = sum(seconds <= GOAL for seconds in times)
        middle, most = statistics.median(times) * 1e3, max(times) * 1e3
        print(
            f"  {kind:10} {good} of {rounds} without survivors; zero after {middle:.0f} ms, {most:.0f} at most"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
