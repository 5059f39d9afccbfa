"""Sessions under another launcher: rank 0 runs them, the other processes start ranks for it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from interpreters import ALONE, Process, Template
from machine import late
from shared_run import done_once

BY_HAND = Path(__file__).with_name("by_hand.py")
ARGUMENTS = [*ALONE, "-p", "no:cacheprovider", "-q"]
PYTEST = [sys.executable, "-m", "pytest", *ARGUMENTS]
LONG = 120.0
ALIKE = """
import os
import pytest
from pytest_elastic.timer import expires as countdown

@pytest.mark.elastic(nprocs=4)
def test_pass(world, tmp_path, shared_tmp_path):
    assert world.gather(world.rank) == [0, 1, 2, 3]
    (tmp_path / "mine").write_text(str(world.rank))
    (shared_tmp_path / f"of{world.rank}").write_text("")
    world.barrier("written")
    assert len(list(shared_tmp_path.iterdir())) == 4

@pytest.mark.elastic
def test_environment(world):
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(world.rank), str(world.size))
    assert "TORCHELASTIC_USE_AGENT_STORE" not in os.environ

@pytest.mark.elastic(nprocs=4)
def test_fails_on_one_rank(world):
    print("said by", world.rank)
    assert world.rank != 2

@pytest.mark.elastic(nprocs=4)
def test_crash(world):
    if world.rank == 3:
        os._exit(7)
    world.barrier("saved", timeout=300)

@pytest.mark.elastic(nprocs=4)
def test_hang(world):
    if world.rank == 1:
        return
    world.barrier("epoch", timeout=300)

@pytest.mark.elastic(nprocs=4)
def test_timer(world, expires):
    with expires(after=0.3 if world.rank == 2 else 60, scope="exchange"):
        world.barrier("late") if world.rank != 2 else __import__("time").sleep(60)

@pytest.mark.elastic(nprocs=3)
def test_skip(world):
    pytest.skip("not today")

@pytest.mark.xfail(strict=True)
@pytest.mark.elastic(nprocs=2)
def test_expected(world):
    assert world.rank == 0

def test_in_pytest(elastic):
    assert elastic.run(lambda rank, size: rank * 2, nprocs=3) == [0, 2, 4]

def test_plain():
    pass
"""


def mpi(name: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: [str(shutil.which(name)), *arguments, "-n", "4", *PYTEST]


LAUNCHERS = {
    "Open MPI": (
        lambda: shutil.which("mpirun.openmpi"),
        mpi("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe"),
    ),
    "MPICH": (lambda: shutil.which("mpiexec.hydra"), mpi("mpiexec.hydra")),
}


def clean() -> dict[str, str]:
    """The environment without the variables of a launcher around these tests."""
    known = ("RANK", "WORLD_SIZE", "TORCHELASTIC", "OMPI_", "PMI_", "SLURM_", "PYTEST_ELASTIC_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}


def outcomes(directory: Path) -> dict[str, tuple[str, str]]:
    """Test -> its outcome, and the first line of what is said of it."""
    found = {}
    for case in ElementTree.parse(directory / "junit.xml").iter("testcase"):
        [told] = [child for child in case if child.tag in ("failure", "error", "skipped")] or [None]
        text = "" if told is None else told.get("message", "").partition("\n")[0]
        found[case.get("name", "")] = (
            "passed" if told is None else told.tag,
            re.sub(r"\d+(\.\d+)? m?s\b", "#", text),
        )
    return found


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, template: Template) -> dict[str, tuple[str, str]]:
    """The outcomes where pytest starts the ranks by itself."""

    def run(directory: Path) -> None:
        (directory / "test_it.py").write_text(ALIKE)
        arguments = [*ARGUMENTS[len(ALONE) :], "--elastic-nprocs=4", "--junitxml=junit.xml"]
        template.run_to_end(arguments, directory, directory / "output", LONG)

    return outcomes(done_once(tmp_path_factory, "alone", run))


def assert_alike(directory: Path, output: str, alone: dict[str, tuple[str, str]]) -> None:
    """Outcomes, and what is said of them; one report, with the output of all ranks."""
    assert outcomes(directory) == alone, output
    assert [outcome for outcome, _ in alone.values()].count("passed") == 4
    assert "HANG  3 of 4 ranks can never go on" in output
    assert output.count("short test summary info") == 1
    assert all(f"said by {rank}" in output for rank in range(4))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_session_is_the_same_under_each_launcher(name: str, tmp_path: Path, alone) -> None:
    """With one exit code."""
    can, command = LAUNCHERS[name]
    if not can():
        pytest.skip(f"{name} is not installed")
    (tmp_path / "test_it.py").write_text(ALIKE)
    ran = subprocess.run(
        [*command(), "--junitxml=junit.xml"],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert_alike(tmp_path, ran.stdout + ran.stderr, alone)
    assert ran.returncode == 1


def test_a_session_is_the_same_under_torchrun(
    tmp_path: Path, alone, template_with_libraries: Template
) -> None:
    """With one exit code.  Torchrun itself is a fork of an interpreter that has imported torch."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        pytest.skip("torch is not installed")
    (tmp_path / "test_it.py").write_text(ALIKE)
    output = tmp_path / "output"
    with output.open("wb") as out, open(os.devnull) as null:
        ran = template_with_libraries.run(
            ["--nproc-per-node=4", "-m", *PYTEST[2:], "--junitxml=junit.xml"],
            tmp_path,
            clean(),
            [null.fileno(), out.fileno(), out.fileno()],
            script=Path(torch.origin).parent / "distributed" / "run.py",
        )
    try:
        assert ran.wait(LONG) == 1, output.read_text()
    finally:
        ran.kill()
        ran.wait(10)
    assert_alike(tmp_path, output.read_text(), alone)


class World:
    """A launcher by hand, and what came of the processes that it started."""

    def __init__(self, template: Template, directory: Path) -> None:
        self.directory = directory
        self._template = template
        self._process: Process | None = None

    def begin(
        self,
        code: str,
        *arguments: str,
        kind: str = "torchrun",
        size: int = 3,
        at: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        (self.directory / "test_it.py").write_text(code)
        changes = [word for change in at for word in ("--at", *change.split(" ", 1))]
        with (self.directory / "told").open("wb") as told, open(os.devnull) as null:
            self._process = self._template.run(
                [kind, str(size), *changes, *ARGUMENTS, *arguments],
                self.directory,
                {**clean(), **environment},
                [null.fileno(), told.fileno(), 2],
                script=BY_HAND,
            )

    def end(self) -> list[tuple[int, str]]:
        assert self._process is not None
        self._process.wait(LONG)
        return [(code, text) for code, text in json.loads((self.directory / "told").read_text())]

    def run(self, code: str, *arguments: str, **how) -> list[tuple[int, str]]:
        self.begin(code, *arguments, **how)
        return self.end()

    def pids(self) -> list[int]:
        """Of the processes that were started, by rank."""
        assert self._process is not None
        return [one.pid for one in psutil.Process(self._process.pid).children()]

    def terminate(self) -> None:
        """SIGTERM, which the launcher passes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            for one in psutil.Process(self._process.pid).children():
                one.kill()
            self._process.wait(LONG)


@pytest.fixture
def outer(tmp_path: Path, template: Template) -> Iterator[World]:
    world = World(template, tmp_path)
    yield world
    world.kill()


def test_a_session_is_the_same_where_only_the_variables_of_srun_are_set(outer: World, alone) -> None:
    """As under a launcher."""
    found = outer.run(ALIKE, "--junitxml=junit.xml", kind="srun", size=4)
    assert_alike(outer.directory, "".join(text for _, text in found), alone)
    assert {code for code, _ in found} == {1}


ONE = """
import pytest
@pytest.mark.elastic
def test_it(world):
    assert world.gather(world.rank) == list(range(world.size))
"""


def test_all_processes_end_alike_and_one_speaks(outer: World) -> None:
    """A test without a number of ranks has all there are; one with fewer leaves the others idle."""
    (code, text), *others = outer.run(
        ONE + "\n@pytest.mark.elastic(nprocs=2)\ndef test_two(world):\n    assert world.size == 2\n"
    )
    assert (code, others) == (0, [(0, "")] * 2), text
    assert "2 passed" in text


def test_more_ranks_than_there_are_is_a_skip(outer: World) -> None:
    """For marked tests and for functions."""
    code = (
        ONE.replace("elastic\n", "elastic(nprocs=8)\n")
        + "\ndef test_run(elastic):\n    elastic.run(print, nprocs=8)\n"
    )
    (status, text), *_ = outer.run(code, "-rs")
    assert status == 0
    assert text.count("needs 8 ranks, and torchrun started 3") == 2


def test_a_session_without_tests_on_ranks_is_left_alone(outer: World) -> None:
    """Each process runs all of it, and says so."""
    found = outer.run("def test_it(): pass\n")
    assert [code for code, _ in found] == [0, 0, 0]
    assert all("1 passed" in text for _, text in found)


@pytest.mark.parametrize(
    ("kind", "arguments", "ranks"),
    [
        ("salloc", (), 2),
        ("bare", (), 2),
        ("bare", ("--elastic-launcher=external",), 3),
        ("torchrun", ("--elastic-launcher=local",), 2),
    ],
)
def test_only_sure_signs_count_and_an_option_decides(
    outer: World, kind: str, arguments: tuple[str, ...], ranks: int
) -> None:
    """Elsewhere each process starts the ranks of its tests by itself."""
    code = f"import pytest\n@pytest.mark.elastic\ndef test_it(world):\n    assert world.size == {ranks}\n"
    found = outer.run(code, *arguments, kind=kind, size=2 if ranks == 2 else 3)
    assert {status for status, _ in found} == {0}, found
    assert sum("1 passed" in text for _, text in found) == (1 if ranks == 3 else 2)


def test_ranks_that_collect_other_tests_are_an_error_that_shows_them(outer: World) -> None:
    """On rank 0, and as the exit code of all."""
    code = ONE + "\nimport os\nif os.environ['RANK'] == '1':\n    def test_more(): pass\n"
    (status, text), *others = outer.run(code)
    assert status == 4
    assert "rank 1 has collected other tests than rank 0" in text
    assert "rank 1 alone has test_it.py::test_more" in text
    assert others == [(4, "")] * 2


def test_another_order_is_an_error_too(outer: World) -> None:
    """The first test that differs is named."""
    names = "sorted(['a', 'b'], reverse=os.environ['RANK'] == '2')"
    code = f"import os, pytest\n@pytest.mark.elastic\n@pytest.mark.parametrize('x', {names})\ndef test_it(world, x): pass\n"
    (status, text), *_ = outer.run(code)
    assert status == 4
    assert (
        "in another order: test 1 is test_it.py::test_it[b] there, and test_it.py::test_it[a] on rank 0"
        in text
    )


def test_a_rank_that_cannot_collect_is_an_error_with_its_words(outer: World) -> None:
    """The import fails on rank 2 only."""
    code = ONE + "\nimport os\nif os.environ['RANK'] == '2':\n    import no_such_module\n"
    began = time.monotonic()
    (status, text), _, (failed, words) = outer.run(code)
    assert (status, failed) == (4, 2)
    assert "No module named 'no_such_module'" in words
    assert "the pytest of rank 2, which torchrun started, has ended before its first test" in text
    assert time.monotonic() - began < late(30)


def test_a_rank_that_never_comes_is_an_error_in_time(outer: World) -> None:
    """It is still busy with its collection."""
    code = ONE + "\nimport os, time\nif os.environ['RANK'] == '1':\n    time.sleep(8)\n"
    (status, text), _, (other, _) = outer.run(code, "-o", "elastic_start_timeout=3")
    assert (status, other) == (4, 4)
    assert "rank 1 of 3 that torchrun started did not come within 3 s" in text


def test_another_version_is_refused(tmp_path: Path) -> None:
    """Of the package, which rank 1 pretends to be, before anything else is imported."""
    conftest = (
        "import os, pytest_elastic\nif os.environ['RANK'] == '1':\n    pytest_elastic.__version__ = '0.0.9'\n"
    )
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(ONE)
    command = [sys.executable, BY_HAND, "torchrun", "2", *ARGUMENTS]
    ran = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=LONG)
    (status, text), *_ = json.loads(ran.stdout)
    assert status == 4
    assert "rank 1 has pytest-elastic 0.0.9, and rank 0 has" in text


LOST = """
import os, pytest, time
@pytest.mark.elastic
def test_first(world, tmp_path):
    open(f"rank{world.rank}", "w").close()
    if world.rank == 1:
        time.sleep(100)
    world.barrier("saved", timeout=300)
@pytest.mark.elastic
def test_second(world): pass
@pytest.mark.elastic
def test_third(world): pass
"""


def begun(directory: Path, size: int = 3) -> None:
    limit = time.monotonic() + LONG
    while len([*directory.glob("rank?")]) < size:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_lost_process_ends_its_test_and_the_run(outer: World) -> None:
    """The test fails with who died; the others are said not to have run; all exit codes say so."""
    outer.begin(LOST)
    begun(outer.directory)
    family = psutil.Process(outer.pids()[1]).children(recursive=True)
    os.kill(outer.pids()[1], signal.SIGKILL)
    (status, text), (lost, _), (other, _) = outer.end()
    assert (status, lost, other) == (1, -9, 1), text
    assert "rank 1" in text
    assert re.search(
        r"the pytest of rank 1 \(pid \d+\), which torchrun started, has ended; 2 tests did not run", text
    )
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_a_launcher_that_ends_the_run_gets_a_report(outer: World) -> None:
    """By SIGTERM to all processes, while a test hangs: its stacks are shown, and nothing is left."""
    outer.begin(LOST)
    begun(outer.directory)
    family = [child for pid in outer.pids() for child in psutil.Process(pid).children(recursive=True)]
    outer.terminate()
    (status, text), *others = outer.end()
    assert status == 2, text
    assert [code for code, _ in others] == [2, 2]
    assert "torchrun has ended the run by SIGTERM" in text
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_nothing_survives_the_death_of_rank_zero(outer: World) -> None:
    """Not the other processes, and not the ranks that they started."""
    outer.begin(LOST)
    begun(outer.directory)
    family = [child for pid in outer.pids() for child in psutil.Process(pid).children(recursive=True)]
    os.kill(outer.pids()[0], signal.SIGKILL)
    assert [code for code, _ in outer.end()] == [-9, 1, 1]
    gone, alive = psutil.wait_procs(family, late(5))
    assert not alive


def test_workers_of_xdist_are_refused(outer: World) -> None:
    """Once."""
    found = outer.run(ONE, "-p", "xdist", "-n2")
    assert [code for code, _ in found] == [4, 4, 4]
    assert [text.count("workers of xdist") for _, text in found] == [1, 0, 0]


@pytest.mark.parametrize(
    ("code", "option"),
    [(ONE, "--elastic-launcher=ray"), (ONE.replace("elastic\n", "elastic(launcher='ray')\n"), "-q")],
)
def test_ray_inside_another_launcher_is_refused(outer: World, code: str, option: str) -> None:
    """Once, by the option and by a marker."""
    found = outer.run(code, option, size=2)
    assert [status for status, _ in found] == [4, 4]
    said = "torchrun has started 2 processes of pytest, which start the ranks, and Ray was asked to start some, too"
    assert [text.count(said) for _, text in found] == [1, 0]


def test_without_ray_its_extra_is_named(tmp_path: Path, template: Template) -> None:
    """And no test runs."""
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['ray'] = None\n")
    (tmp_path / "test_it.py").write_text(ONE)
    arguments = ["-q", "--elastic-launcher=ray"]
    assert template.run_to_end(arguments, tmp_path, tmp_path / "output", LONG) == pytest.ExitCode.USAGE_ERROR
    assert "Ray is not installed (the extra `ray` of pytest-elastic" in (tmp_path / "output").read_text()


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (("0 RANK=7", "1 RANK=7"), "torchrun says that this is rank '7' of '2'"),
        (("0 LOCAL_WORLD_SIZE=1", "1 LOCAL_WORLD_SIZE=1"), "torchrun has started 2 ranks on several machines; set PYTEST_ELASTIC_RENDEZVOUS in all of them"),
    ],
)  # fmt: skip
def test_a_world_that_cannot_be_served_is_refused(outer: World, at: tuple[str, ...], words: str) -> None:
    """In words, before anything is collected."""
    found = outer.run(ONE, size=2, at=at)
    assert [code for code, _ in found] == [4, 4]
    assert words in found[0][1]


def test_external_without_a_launcher_is_an_error(outer: World) -> None:
    """It was asked for, and nobody has set a rank."""
    (code, text), *_ = outer.run(ONE, "--elastic-launcher=external", kind="salloc", size=1)
    assert code == 4
    assert "no launcher has set RANK and WORLD_SIZE" in text


def test_torchrun_inside_of_a_step_of_slurm_counts(outer: World) -> None:
    """The innermost launcher does: the step has two tasks, and each may run torchrun."""
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    found = outer.run(ONE, **step)
    assert [code for code, _ in found] == [0, 0, 0], found
    assert [bool(text) for _, text in found] == [True, False, False]


def test_ranks_do_not_hold_the_socket_at_which_rank_zero_listens(outer: World) -> None:
    """They are forks of a process that listens until all have come."""
    code = """
import psutil, pytest
@pytest.mark.elastic
def test_it(world):
    listening = [one for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert not listening
"""
    (status, text), *_ = outer.run(code, size=2)
    assert status == 0, text


def test_a_session_inside_of_a_rank_is_one_of_its_own(outer: World) -> None:
    """The variables of torch elastic that a rank has are ours."""
    code = f"""
import subprocess, sys, pytest
@pytest.mark.elastic
def test_it(world, tmp_path):
    if world.rank == 1:
        (tmp_path / "test_inner.py").write_text({ONE!r})
        ran = subprocess.run({PYTEST!r}, cwd=tmp_path, capture_output=True, text=True)
        assert "1 passed" in ran.stdout
"""
    (status, text), *_ = outer.run(code, size=2)
    assert status == 0, text


def test_fresh_interpreters_are_started_by_each_process(outer: World) -> None:
    """One that has run a test runs the next one, too."""
    code = ONE.replace("test_it(world)", "test_it(world, turn)").replace(
        "\ndef", "\n@pytest.mark.parametrize('turn', [1, 2])\ndef"
    )
    (status, text), *_ = outer.run(code, "--elastic-start-method=spawn", size=2)
    assert (status, "2 passed" in text) == (0, True), text


def test_stress_acts_on_the_store(outer: World) -> None:
    """As it does where pytest starts the ranks: the order that loses is found, and its token named."""
    code = """
import pytest
@pytest.mark.elastic
def test_it(world):
    n = world.store.add("turn", 1)
    world.barrier("all")
    assert not (world.rank == 1 and n == 1), "rank 1 was first"
"""
    (status, text), *_ = outer.run(code, "--elastic-stress=30", size=2)
    assert status == 1, text
    assert "--elastic-replay=" in text
