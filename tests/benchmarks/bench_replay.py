"""How often a recorded failure of real ranks comes back: `python tests/benchmarks/bench_replay.py [times]`.

Each kernel fails in some orders of its store operations only.  It is run under stress until it does; then its
token and its file are replayed, 50 times each, in one run of pytest.  A replay counts if it fails with the
same message and took every recorded step in its place (a token's also by its fingerprint).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "plugin" / "racy.py"
NAMES = ("test_counter", "test_leader", "test_generation", "test_locks", "test_wake_up")


def pytest(folder: Path, times: int, *arguments: str) -> tuple[str, float]:
    """What a run printed, and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "kernels.py", "-p", "no:randomly", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "TIMES": str(times), "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    return done.stdout, time.perf_counter() - began


def messages(output: str) -> list[str]:
    """The first line of each failure, without what is measured in it."""
    lines = re.findall(r"^E +(?:pytest_elastic\.errors\.)?(\w*Error.*)$", output, re.MULTILINE)
    return [re.sub(r"\d+ ms|pid: \d+", "", line) for line in lines if "ChildFailedError" not in line]


def measure(folder: Path, name: str, times: int) -> None:
    """One kernel."""
    output, _ = pytest(folder, 1, "-k", name, "--elastic-stress=500", "--elastic-seed=1")
    (rounds,) = re.findall(r"failed in round (\d+)", output)
    (file,) = re.findall(r"^recording: (\S+)$", output, re.MULTILINE)
    (token,) = re.findall(r"--elastic-replay=(\S+)$", output, re.MULTILINE)
    wanted = messages(output)[:1]
    for given in (token, file):
        again, seconds = pytest(folder, times, "-k", name, f"--elastic-replay={given}")
        steps = re.findall(r"^replayed (\d+) of (\d+) steps in their order$", again, re.MULTILINE)
        whole = sum(done == of for done, of in steps)
        same = sum(message in wanted for message in messages(again))
        kind = "token" if given is token else "file"
        print(
            f"{name:<16} {rounds:>6}  {kind:<6} {min(whole, same):>3} of {times}"
            f"  {seconds / times * 1000:>6.0f} ms  {steps[0][1] if steps else '?':>5}  {token}"
        )


def main() -> None:
    """All of them."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print("kernel           rounds  by     identical  each       steps  token")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(KERNELS, folder / "kernels.py")
        for kernel in NAMES:
            measure(folder, kernel, times)


if __name__ == "__main__":
    main()
