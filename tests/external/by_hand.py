"""A launcher: `python by_hand.py KIND N ARGUMENTS...` runs pytest N times, with the variables of a launcher.

It prints, as JSON, the exit code and the output of each, by rank.  `--at RANK NAME=VALUE` changes one's variables.
The processes are forks, since each interpreter of its own would spend a second on imports; the tests run this in a
fork of a template that has them made (`tests/interpreters.py`).
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from typing import NoReturn

VARIABLES = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "none", "RANK": "{rank}", "WORLD_SIZE": "{size}"},
    "openmpi": {"OMPI_COMM_WORLD_RANK": "{rank}", "OMPI_COMM_WORLD_SIZE": "{size}"},
    "mpich": {"PMI_RANK": "{rank}", "PMI_SIZE": "{size}"},
    "srun": {"SLURM_STEP_ID": "0", "SLURM_PROCID": "{rank}", "SLURM_STEP_NUM_TASKS": "{size}"},
    "salloc": {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "{size}"},
    "bare": {"RANK": "{rank}", "WORLD_SIZE": "{size}"},
}


def run(rank: int, variables: dict[str, str], arguments: list[str]) -> NoReturn:
    """In the fork: pytest, with its output in a file."""
    os.dup2(os.open(f"out{rank}", os.O_WRONLY | os.O_CREAT, 0o644), 1)
    os.dup2(1, 2)
    os.environ.update(variables)
    sys.argv[1:] = arguments
    sys.path.insert(0, os.getcwd())
    code: object = 1
    try:
        runpy.run_module("pytest", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code) if isinstance(code, int) else 1)


def main() -> None:
    kind, size, *arguments = sys.argv[1:]
    changes: dict[int, dict[str, str]] = {}
    while arguments[0] == "--at":
        _, rank, change, *arguments = arguments
        name, _, value = change.partition("=")
        changes.setdefault(int(rank), {})[name] = value
    pids: list[int] = []
    for rank in range(int(size)):
        told = {name: text.format(rank=rank, size=size) for name, text in VARIABLES[kind].items()}
        pid = os.fork()
        if not pid:
            run(rank, {**told, **changes.get(rank, {})}, arguments)
        pids.append(pid)
    # As torchrun does: the signal goes to all.
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    found = []
    for rank, pid in enumerate(pids):
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with open(f"out{rank}", encoding="utf-8", errors="replace") as out:
            found.append([code, out.read()])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
