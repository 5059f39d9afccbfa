"""All numbers of searching, proving, shrinking and replaying: `python tests/benchmarks/bench_reproduce.py`.

Runs `bench_search.py` (beside the other tools on the package index, which it installs into an environment of
its own, where that can be done), `bench_simulator.py` and `bench_replay.py`, each in an interpreter of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
NEEDED = ["pytest", "hypothesis", "psutil"]  # By the kernels and their stores.


def peers(folder: Path) -> list[str]:
    """The interpreter that has the other tools, as far as they can be had; nothing if none can."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    found = False
    for tool in ("frontrun", "interleave-test"):
        install = [python, "-m", "pip", "install", "-q", tool, *NEEDED]
        done = subprocess.run(install, capture_output=True, text=True)
        found |= done.returncode == 0
        if done.returncode:
            print(f"{tool} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return [python] if found else []


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for script, arguments in (
            ("bench_search.py", peers(Path(name))),
            ("bench_simulator.py", []),
            ("bench_replay.py", []),
        ):
            print(f"\n== {script}", flush=True)
            subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
