"""Sessions over several hosts, which are namespaces of this machine: each has its own processes, files and clock."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, lacking
from machine import late
from test_external import ALIKE, LONG, PYTEST, alone, clean, outcomes

__all__ = ["alone"]
pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())

SHARED = """    (shared_tmp_path / f"of{world.rank}").write_text("")
    world.barrier("written")
    assert len(list(shared_tmp_path.iterdir())) == 4
"""
TWO = """
import os, pathlib, time
import pytest

def test_places(world):
    local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    assert world.gather(local) == [(0, 1), (0, 1)]
    for number in range(20):
        world.barrier(f"step{number}")

def test_shared(world, shared_tmp_path):
    pass

@pytest.mark.elastic(timeout=4)
def test_cut(world):
    world.barrier("begun")
    pathlib.Path(f"begun{world.rank}").touch()
    if world.rank == 1:
        time.sleep(60)
    world.barrier("late")

def test_after(world):
    pass
"""
MENDED = """
import pathlib, time
import pytest

@pytest.mark.elastic(timeout=60)
def test_mended(world):
    world.barrier("begun")
    pathlib.Path(f"begun{world.rank}").touch()
    if world.rank == 1:
        while not pathlib.Path("mended").exists():
            time.sleep(0.05)
        world.store.set("late", "1")
    world.store.wait(["late"], 50)

def test_after(world):
    world.barrier("after")
"""
TORCH = """
import pytest, torch, torch.distributed as dist

@pytest.mark.parametrize("backend", ["gloo", "elastic"])
@pytest.mark.elastic(timeout=60)
def test_sum(world, backend):
    dist.init_process_group(backend)
    tensor = torch.ones(100_000)
    dist.all_reduce(tensor)
    dist.destroy_process_group()
    assert tensor.sum() == 200_000

@pytest.mark.elastic(timeout=60)
def test_one_less(world):
    dist.init_process_group("gloo")
    if world.rank == 0:
        dist.all_reduce(torch.ones(4))
"""


class Sessions:
    """Two hosts, and the processes of a launcher on them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.hosts = directory, Hosts(2, directory)
        self.processes: list[subprocess.Popen[str]] = []

    def begin(self, code: str, size: int, *arguments: str, **variables: str) -> None:
        """Start so many pytests, half of them on each host."""
        (self.directory / "test_it.py").write_text(code)
        for rank in range(size):
            told = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size // 2)}
            meeting = {
                "TORCHELASTIC_RUN_ID": "none",
                "PYTEST_ELASTIC_RENDEZVOUS": str(self.directory / "meeting"),
            }
            env = {**clean(), **told, **meeting, **variables}
            self.start(rank * 2 // size, [*PYTEST, *arguments], env)

    def start(self, host: int, command: list[str], env: dict[str, str]) -> None:
        output = self.directory / f"out{len(self.processes)}"
        self.processes.append(self.hosts.begin(host, command, env, output))

    def wait_until_begun(self) -> None:
        """Each of two ranks has made the file that says so."""
        deadline = time.monotonic() + late(60)
        while not all((self.directory / f"begun{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline, self.said() + self.said(1)
            time.sleep(0.05)

    def end(self) -> list[int]:
        """Their exit codes."""
        return [process.wait(LONG) for process in self.processes]

    def said(self, number: int = 0) -> str:
        return (self.directory / f"out{number}").read_text()


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    made = Sessions(tmp_path)
    yield made
    made.hosts.close()


def test_a_session_is_the_same_on_two_hosts(sessions: Sessions, alone) -> None:
    """Outcomes, and what is said of them, with the output of all ranks; nothing is left on either host."""
    assert SHARED in ALIKE
    sessions.begin(
        ALIKE.replace(SHARED, "    pass\n" * 3).replace(", shared_tmp_path", ""), 4, "--junitxml=junit.xml"
    )
    assert sessions.end() == [1, 1, 1, 1]
    said = sessions.said()
    assert outcomes(sessions.directory) == alone, said
    assert "HANG  3 of 4 ranks can never go on" in said
    assert all(f"said by {rank}" in said for rank in range(4))
    assert [sessions.said(rank) for rank in (1, 2, 3)] == ["", "", ""]
    assert [sessions.hosts.processes(host) for host in (0, 1)] == [[], []]
    assert list(sessions.directory.glob("tmp*/pytest-elastic-ranks-*")) == []


def test_a_host_that_is_cut_off_is_not_taken_for_dead(sessions: Sessions) -> None:
    """Over a slow and lossy link, with addresses of IPv6; then the link is cut: both sides end, and say why."""
    sessions.hosts.spoil(1, "tbf rate 4mbit burst 5kb limit 15kb")
    sessions.begin(TWO, 2, MASTER_ADDR=sessions.hosts.address_6(0))
    sessions.wait_until_begun()
    sessions.hosts.cut(1)
    assert sessions.end() == [1, 1]
    said = sessions.said()
    assert "ERROR test_it.py::test_shared - " in said
    assert "the ranks are on several machines, which share no directory" in said
    assert "FAILED test_it.py::test_cut - rank 1 is on a machine that does not answer" in said
    assert "which torchrun started, does not answer; 1 test did not run" in said
    assert "1 passed" in said
    assert [sessions.hosts.processes(host) for host in (0, 1)] == [[], []]


def test_a_host_that_is_back_in_time_was_never_missed(sessions: Sessions) -> None:
    """A link is cut for longer than an answer may take, while one rank waits for the other, and mended: both pass."""
    sessions.begin(MENDED, 2)
    sessions.wait_until_begun()
    sessions.hosts.cut(1)
    time.sleep(4)  # A question has two seconds, and is asked again after three.
    sessions.hosts.mend(1)
    (sessions.directory / "mended").touch()
    assert sessions.end() == [0, 0], sessions.said()
    said = sessions.said()
    assert "2 passed" in said
    assert "does not answer" not in said
    assert "HANG" not in said
    assert [sessions.hosts.processes(host) for host in (0, 1)] == [[], []]


def test_torchrun_on_two_hosts(sessions: Sessions) -> None:
    """They meet in torchrun's own store; collectives are compared, and carried where no memory is shared."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    (sessions.directory / "test_it.py").write_text(TORCH)
    for host in (0, 1):
        place = [f"--node-rank={host}", "--master-port=29533", f"--master-addr={sessions.hosts.address(0)}"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *place]
        sessions.start(host, [*launcher, "-m", *PYTEST[2:]], {**clean(), "GLOO_SOCKET_IFNAME": "eth0"})
    assert sessions.end() == [1, 1]
    said = sessions.said() + sessions.said(1)
    assert "1 failed, 2 passed" in said, said
    assert "all_reduce #0 of group world, float32[4] SUM: joined 0" in said


def test_several_hosts_need_a_place_to_meet(sessions: Sessions) -> None:
    """Else it is an error in words, on all of them."""
    sessions.begin("def test_it(world): pass", 2, PYTEST_ELASTIC_RENDEZVOUS="")
    assert sessions.end() == [4, 4]
    assert "set PYTEST_ELASTIC_RENDEZVOUS in all of them to the path of a file" in sessions.said()
