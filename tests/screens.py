"""The page of screens: what is shown for one failure of each kind.

    python tests/screens.py [--write docs/screens.md]

Each is the report of one run of pytest, without its header, in a terminal of 100 columns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

PAGE = """\
# Screens

What the report shows for one failure of each kind, made by `python tests/screens.py --write docs/screens.md`. Times and tokens are those of that run.
"""
HEAD = "import os, time\nimport pytest\n"


@dataclass(frozen=True)
class Screen:
    """A failure: its title, and the test that fails so."""

    title: str
    code: str
    needs: str = ""


SCREENS = [
    Screen("An assertion on one rank", """
        @pytest.mark.elastic(nprocs=4)
        def test_sizes(world):
            shard = list(range(world.rank, 10, world.size))
            assert len(shard) == 3
    """),
    Screen("Many ranks that fail alike", """
        @pytest.mark.elastic(nprocs=8)
        def test_loss(world):
            loss = 0.5 + world.rank / 10
            assert loss == 0.5
    """),
    Screen("A crash", """
        @pytest.mark.elastic(nprocs=3)
        def test_save(world):
            if world.rank == 2:
                os._exit(7)
            world.barrier("saved")
    """),
    Screen("A hang in the store", """
        @pytest.mark.elastic(nprocs=3)
        def test_epoch(world):
            for epoch in range(3):
                if world.rank == 1 and epoch == 2:
                    return
                world.barrier(f"epoch{epoch}")
    """),
    Screen("A hang in a collective", """
        import torch
        import torch.distributed as dist

        @pytest.mark.elastic(nprocs=3)
        def test_step(process_group, rank):
            for batch in range(3 if rank else 2):
                dist.all_reduce(torch.ones(4))
    """, needs="torch"),
    Screen("Collectives that do not fit", """
        import torch
        import torch.distributed as dist

        @pytest.mark.elastic(nprocs=3)
        def test_metrics(process_group, rank):
            dist.all_reduce(torch.ones(3 if rank == 1 else 4))
    """, needs="torch"),
    Screen("A timer that expired", """
        @pytest.mark.elastic(nprocs=2)
        def test_exchange(world, expires):
            with expires(after=0.5, scope="exchange"):
                time.sleep(30 if world.rank == 1 else 0)
    """),
    Screen("A test whose time is over", """
        @pytest.mark.elastic(nprocs=2, timeout=2)
        def test_spins(world):
            while world.rank == 1:
                pass
    """),
    Screen("A function of `elastic.run`", """
        def load(rank, world_size):
            return {"train": 3}["test" if rank == 1 else "train"]

        def test_load(elastic):
            elastic.run(load, nprocs=2)
    """),
    Screen("A simulated race", """
        from pytest_elastic.simulator import explore

        def elect(rank, world_size, store):
            if not store.check(["leader"]):
                store.set("leader", str(rank))
            assert store.get("leader") == str(rank).encode() or rank

        def test_leader():
            explore(elect, ranks=2)
    """),
]  # fmt: skip


def shown(screen: Screen) -> str:
    """The report of a run of its test."""
    with tempfile.TemporaryDirectory() as name:
        Path(name, "test_it.py").write_text(HEAD + dedent(screen.code), "utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "test_it.py",
        ]
        environment = {**os.environ, "COLUMNS": "100"}
        output = subprocess.run(
            command, cwd=name, env=environment, capture_output=True, text=True, timeout=120, check=False
        ).stdout
    report = output[output.index("= FAILURES =") :].partition("\n")[2]
    return report.replace(f"{name}/", "").rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    parts = [PAGE]
    for screen in SCREENS:
        if screen.needs and find_spec(screen.needs) is None:
            continue
        code = dedent(screen.code).strip("\n")
        parts.append(f"## {screen.title}\n\n```python\n{code}\n```\n\n```text\n{shown(screen)}\n```\n")
    page = "\n".join(parts)
    print(page)
    if options.write:
        options.write.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
