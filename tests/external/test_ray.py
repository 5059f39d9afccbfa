"""Sessions whose ranks Ray starts, on two nodes: real clusters, and all of what a real end of one does.

All sessions run once, one after the other on one cluster, and the tests look at what came of them.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from machine import late
from ray_nodes import Nodes
from shared_run import done_once
from test_external import ALIKE, ARGUMENTS, LONG, alone, assert_alike, clean

from pytest_elastic.external import RayContext

__all__ = ["alone"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra `ray`)"
)
MARK = "ELASTIC_SESSION_OF_RAY"
WAITING = """
import os, pathlib, time
import pytest

@pytest.mark.elastic(nprocs=2, launcher="ray", expect={0: "SIGKILL", 1: "SIGKILL"})
def test_lost(world):
    pathlib.Path(f"begun{world.rank}").write_text(str(os.getpid()))
    while not (lost := pathlib.Path("lost")).exists():
        time.sleep(0.05)
    if lost.read_text() == str(world.rank):
        time.sleep(100)
    world.barrier("late", timeout=300)

@pytest.mark.elastic(nprocs=2)
def test_local(world):
    assert "LOCAL" in os.environ["WHERE"]

@pytest.mark.elastic(nprocs=1, launcher="ray")
def test_alone(world):
    pathlib.Path("begun0").write_text("alone")
    time.sleep(100)
"""
OTHERS = """
import os
import pytest

@pytest.mark.parametrize("where", ["agent" if os.getsid(0) == os.getpid() else "pytest"])
def test_it(world, where):
    pass
"""
CONTEXT = """
import json, os, pathlib
from pytest_elastic.external import RayContext
from pytest_elastic.multiprocessing import DefaultLogsSpecs, Std

def work(rank, factor):
    print("said on", os.environ["NAME"])
    return rank * factor

def run(name, *what, **logs):
    context = RayContext(name, *what, DefaultLogsSpecs("logs", **logs))
    assert context.pids() == {}
    context.start()
    assert len(set(context.pids().values())) == len(what[1])
    result = context.wait(timeout=60)
    exits = {rank: failure.exitcode for rank, failure in result.failures.items()}
    return result.return_values, exits, [pathlib.Path(path).read_text() for path in result.stdouts.values()]

if __name__ == "__main__":
    found = run("functions", work, {0: (0, 10), 1: (1, 10)}, {rank: {"NAME": f"node {rank}"} for rank in (0, 1)})
    more = run("programs", "sh", {0: ("-c", "echo $NAME; exit 3")}, {0: {"NAME": "node 0"}}, redirects=Std.ALL)
    pathlib.Path("found").write_text(json.dumps([found, more]))
"""
# A version that the nodes do not have.
ANOTHER = (
    "import sys, pytest_elastic; pytest_elastic.__version__ = '9.9'; import pytest; sys.exit(pytest.main())"
)


def written(file: Path) -> bool:
    """Whether something is in it."""
    return file.exists() and file.stat().st_size > 0


class Session:
    """One session, or another program, in a directory of its own; in the file `end` are its exit code and what it left."""

    def __init__(self, base: Path, name: str, nodes: Nodes) -> None:
        self.directory, self._nodes = base / name, nodes
        self.directory.mkdir()

    def run(
        self,
        code: str,
        *arguments: str,
        until: tuple[str, ...] = (),
        do: Callable[[subprocess.Popen[bytes]], object] = lambda process: None,
        python: tuple[str, ...] = ("-m", "pytest", *ARGUMENTS),
        **environment: str,
    ) -> None:
        (self.directory / "test_it.py").write_text(code)
        told = {
            "RAY_ADDRESS": self._nodes.address,
            MARK: self.directory.name,
            "WHERE": "LOCAL",
            **environment,
        }
        with (self.directory / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *python, *arguments],
                cwd=self.directory, env={**clean(), **told}, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + LONG
            while not all(map(written, (self.directory / file for file in until))):
                assert time.monotonic() < deadline, (self.directory / "output").read_text()
                assert process.poll() is None, (self.directory / "output").read_text()
                time.sleep(0.05)
            do(process)
            begin = time.monotonic()
            code = str(process.wait(LONG))
        finally:
            process.kill()
            process.wait()
        left = self._left()
        while left and time.monotonic() < begin + late(20):
            time.sleep(0.05)
            left = self._left()
        (self.directory / "end").write_text("\n".join([code, *left]))

    def _left(self) -> list[str]:
        """Commands of the processes that run in the environment of this session."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.directory.name:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                pass
        return found


def lose(directory: Path, raylet: int) -> None:
    """Kill what holds a node, once its rank sleeps and the other one waits for it."""
    [rank] = [
        rank for rank in (0, 1)
        if raylet in {one.pid for one in psutil.Process(int((directory / f"begun{rank}").read_text())).parents()}
    ]  # fmt: skip
    (directory / "draft").write_text(str(rank))
    (directory / "draft").rename(directory / "lost")
    psutil.Process(raylet).kill()


@pytest.fixture(scope="session")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them have run; that in which a node is lost comes last."""

    def run(base: Path) -> None:
        with Nodes() as nodes:
            Session(base, "alike", nodes).run(
                ALIKE, "--elastic-launcher=ray", "--elastic-nprocs=4", "--junitxml=junit.xml"
            )
            Session(base, "killed", nodes).run(
                WAITING, "-k", "alone", until=("begun0",), do=lambda pytest: pytest.kill()
            )
            Session(base, "interrupted", nodes).run(
                WAITING, "-k", "alone", until=("begun0",), do=lambda pytest: pytest.send_signal(signal.SIGINT)
            )
            Session(base, "others", nodes).run(OTHERS, "--elastic-launcher=ray", "--elastic-nprocs=1")
            Session(base, "room", nodes).run(
                WAITING,
                "-k",
                "lost",
                "-o",
                "elastic_start_timeout=2",
                "-o",
                "elastic_ray_resources=CPU=1 TPU=3",
            )
            Session(base, "version", nodes).run(WAITING, "-k", "alone", python=("-c", ANOTHER, *ARGUMENTS))
            Session(base, "context", nodes).run(CONTEXT, python=("test_it.py",))
            Session(base, "lost", nodes).run(
                WAITING,
                "-k",
                "lost or local",
                until=("begun0", "begun1"),
                do=lambda pytest: lose(base / "lost", nodes.raylets[-1]),
            )

    return done_once(tmp_path_factory, "ray", run)


def test_a_session_on_two_nodes_is_the_same(sessions: Path, alone) -> None:
    """As where pytest starts the ranks by itself; nothing is left on either node."""
    assert_alike(sessions / "alike", (sessions / "alike/output").read_text(), alone)
    assert (sessions / "alike/end").read_text() == "1"


def test_a_node_that_dies_is_named_with_its_ranks(sessions: Path) -> None:
    """Though the rank was to be killed; nobody waits, nothing is left, and the session says what did not run."""
    said, rank = (sessions / "lost/output").read_text(), (sessions / "lost/lost").read_text()
    assert f"rank {rank} was lost with node " in said
    assert f"absent {rank} (lost with node " in said
    assert f", and rank {rank} with it: its raylet has ended; 1 test did not run" in said
    assert (sessions / "lost/end").read_text() == "1"


def test_functions_and_programs_run_on_nodes_without_pytest(sessions: Path) -> None:
    """Results, exit codes, logs; what is not redirected is shown."""
    said = (sessions / "context/output").read_text()
    assert (sessions / "context/end").read_text() == "0", said
    functions, programs = json.loads((sessions / "context/found").read_text())
    assert functions == [{"0": 0, "1": 10}, {}, ["said on node 0\n", "said on node 1\n"]]
    assert programs == [{}, {"0": 3}, ["node 0\n"]]
    assert "[functions1]:said on node 1" in said
    assert "[programs0]" not in said


def test_a_strategy_that_is_none_is_refused() -> None:
    """Before anything is made."""
    with pytest.raises(
        ValueError, match="strategy 'PACK' is not allowed; it must be one of SPREAD, STRICT_PACK"
    ):
        RayContext("n", pow, {0: (2, 3)}, {0: {}}, strategy="PACK")


@pytest.mark.parametrize(("how", "code"), [("killed", "-9"), ("interrupted", "2")])
def test_nothing_is_left_on_a_node(sessions: Path, how: str, code: str) -> None:
    """Whatever pytest ends by."""
    assert (sessions / how / "end").read_text() == code


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "others",
            "rank 0 has collected other tests than pytest\n  rank 0 alone has test_it.py::test_it[agent]",
        ),
        (
            "room",
            "Ray: no room for 2 ranks (SPREAD) within 2 s: they need 2 CPU (1 for each), of 4 there are ",
        ),
        ("room", ", and 6 TPU (3 for each), of 0 there are 0 free"),
        ("version", "where Ray would run rank 0, has pytest-elastic 0.1.0, and pytest has 9.9"),
    ],
)
def test_what_cannot_be_is_one_error(sessions: Path, name: str, said: str) -> None:
    """In words, and nothing is left."""
    output = (sessions / name / "output").read_text()
    assert said in output
    assert output.count("ERROR: ") == 1
    assert (sessions / name / "end").read_text() == "4"
