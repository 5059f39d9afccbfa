"""The table of launchers: one session under each, with what came of every test.

    python tests/launcher_table.py [--write docs/launchers.md]

The session and the launchers are those of `tests/external`, with a test of torch's collectives.  Those that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "external")]

from ray_nodes import Nodes  # noqa: E402
from test_external import ALIKE, ARGUMENTS, BY_HAND, LAUNCHERS, LONG, PYTEST, clean, outcomes  # noqa: E402 - by the path above

MARK = "## What was run"
COLLECTIVE = """
@pytest.mark.elastic(nprocs=4, timeout=300)
def test_hang_in_a_collective(process_group, rank):
    import torch, torch.distributed as dist
    if rank != 1:
        dist.all_reduce(torch.ones(4))
"""
PATIENT = ["-o", "elastic_start_timeout=300"]  # On a busy machine.
LOCAL = {
    "pytest, fork": [*PYTEST, "--elastic-nprocs=4"],
    "pytest, spawn": [*PYTEST, "--elastic-nprocs=4", "--elastic-start-method=spawn"],
}


def measure(command: list[str], **environment: str) -> tuple[dict[str, str], float, int]:
    """Test -> outcome; seconds; how many processes were left."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "test_it.py").write_text(ALIKE + COLLECTIVE, "utf-8")
        begin = time.monotonic()
        subprocess.run(
            [*command, "--junitxml=junit.xml", *PATIENT],
            cwd=directory, env={**clean(), **environment, "TABLE": name}, check=False, timeout=4 * LONG, capture_output=True,
        )  # fmt: skip
        took = time.monotonic() - begin
        left = [one for one in psutil.process_iter() if one.pid != os.getpid() and _is_of(one, name)]
        return {test: outcome for test, (outcome, _) in outcomes(directory).items()}, took, len(left)


def _is_of(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("TABLE") == name
    except psutil.Error:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    launched = {name: command() for name, (can, command) in LAUNCHERS.items() if can()}
    by_hand = {"the variables of srun": [sys.executable, str(BY_HAND), "srun", "4", *ARGUMENTS]}
    commands = {**LOCAL, **launched, **by_hand}
    found = {name: measure(command) for name, command in commands.items()}
    if importlib.util.find_spec("ray") is not None:
        with Nodes() as nodes:
            command = [*PYTEST, "--elastic-launcher=ray", "--elastic-nprocs=4"]
            found["Ray, two nodes"] = measure(command, RAY_ADDRESS=nodes.address)
    tests = list(next(iter(found.values()))[0])
    lines = ["| test | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for test in tests:
        lines.append(
            f"| `{test}` | " + " | ".join(outcomes.get(test, "?") for outcomes, _, _ in found.values()) + " |"
        )
    lines.append("| seconds | " + " | ".join(f"{took:.1f}" for _, took, _ in found.values()) + " |")
    lines.append("| processes left | " + " | ".join(str(left) for _, _, left in found.values()) + " |")
    table = "\n".join(lines)
    print(table)
    if options.write:
        page = options.write.read_text("utf-8")
        options.write.write_text(f"{page.partition(MARK)[0]}{MARK}\n\n{table}\n", "utf-8")


if __name__ == "__main__":
    main()
