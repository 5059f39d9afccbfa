"""What every test is held to: no process, thread or descriptor survives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from interpreters import ALONE, MARK, Template, settle
from shared_run import shared_by_workers

# Tests start hundreds of interpreters: they find the package compiled, also where nobody else may write it down.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts a job in the background with SIGINT ignored, which all that it starts inherits.  Tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Tests fork this process hundreds of times."""
    settle()


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found


def _children() -> list[int]:
    """Of all threads, as the kernel lists them: no search through all processes, before and after each test."""
    found = []
    for name in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # The thread has ended.
            found += map(int, Path(f"/proc/self/task/{name}/children").read_bytes().split())
    return [pid for pid in found if _runs(pid)]


@pytest.fixture(autouse=True)
def nothing_survives() -> Iterator[None]:
    """No child process, thread or socket outlives the test.

    What is just ending has ten seconds: on a busy machine the kernel takes its time to give back what a close
    asked for.
    """
    before, threads, family = _descriptors(), set(threading.enumerate()), set(_children())
    yield
    deadline = time.monotonic() + 10.0
    while True:
        children = [pid for pid in _children() if pid not in family]
        alive = [thread.name for thread in threading.enumerate() if thread not in threads]
        opened = [
            f"{number}: {target}"
            for number, target in _descriptors().items()
            if number not in before and target.startswith(("socket:", "anon_inode:", "pipe:", "/proc/"))
        ]
        if not (children or alive or opened):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: processes {children}, threads {alive}, descriptors {opened}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def rounds() -> Callable[[int, int], int]:
    """How often to repeat what has to be repeated: `rounds(few, all)`; all where ELASTIC_ROUNDS=all says so."""
    return lambda few, all: all if os.environ.get("ELASTIC_ROUNDS") == "all" else few


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until something holds, at most 20 s."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    return wait


Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """The interpreter whose forks inner sessions are."""
    template = Template(shared_by_workers(tmp_path_factory) / "template.lock")
    yield template
    template.close()


@pytest.fixture(scope="session")
def template_with_libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """One that has torch and hypothesis imported, each of which takes seconds."""
    template = Template(
        shared_by_workers(tmp_path_factory) / "template-with-libraries.lock",
        "torch.distributed",
        "torch.nn.parallel",
        "torch.utils.data",
        "torch._dynamo.distributed",  # Which torch imports at the first use of an optimizer.
        "torch.testing._internal.common_distributed",  # Its own test cases.
        "hypothesis.strategies",
        "pytest_elastic.strategies",
    )
    yield template
    template.close()


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Template) -> Run:
    """Run pytest in a process of its own on test code given as text; a bounded wait.

    Its plugins are ours, pytest's, and those that the arguments name (`-p xdist`).
    """
    return _run(pytester, monkeypatch, template)


@pytest.fixture
def run_with_libraries(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template_with_libraries: Template
) -> Run:
    """The same for code that imports torch or hypothesis."""
    return _run(pytester, monkeypatch, template_with_libraries)


def _run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Template) -> Run:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "160")  # Summary lines whole.
    for name in ("CI", "BUILD_NUMBER"):  # In which pytest cuts nothing, and output is another.
        monkeypatch.delenv(name, raising=False)

    def run(code: str, *arguments: str, seconds: float = 240.0, **files: str) -> pytest.RunResult:
        pytester.makepyfile(textwrap.dedent(code), **files)
        if not template.can_fork(os.environ):
            return pytester.runpytest_subprocess(*ALONE, *arguments, timeout=seconds)
        return forked(template, pytester, [*ALONE, *arguments], seconds)

    return run


def forked(
    template: Template, pytester: pytest.Pytester, arguments: Sequence[str], seconds: float = 240.0
) -> pytest.RunResult:
    """What `Pytester.runpytest_subprocess` does, in a fork of the template."""
    directory, began = pytester.path, time.monotonic()
    scratch = tempfile.mkdtemp(prefix="runpytest-", dir=directory)
    path = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    with (
        (directory / "stdout").open("wb") as out,
        (directory / "stderr").open("wb") as err,
        open(os.devnull) as null,
    ):
        process = template.run(
            [f"--basetemp={scratch}", *arguments],
            Path.cwd(),
            environment,
            [null.fileno(), out.fileno(), err.fileno()],
        )
        try:
            process.wait(seconds)
        finally:
            process.kill()
            process.wait(10)
    lines = [(directory / name).read_text("utf-8").splitlines() for name in ("stdout", "stderr")]
    for text, stream in zip(lines, (sys.stdout, sys.stderr), strict=True):
        print(*text, sep="\n", file=stream)
    return pytest.RunResult(process.returncode, *lines, time.monotonic() - began)


class Session:
    """A pytest in the background, for tests that end it from outside."""

    def __init__(self, template: Template, directory: Path, code: str, *arguments: str) -> None:
        (directory / "test_session.py").write_text(textwrap.dedent(code))
        self.directory = directory
        self.mark = f"elastic-survivor-{os.getpid()}-{time.monotonic_ns()}"
        self.output = directory / "output.txt"
        self._held, holds = os.pipe()
        with self.output.open("wb") as output, open(os.devnull) as null:
            self.process = template.run(
                [*ALONE, *arguments],
                directory,
                {**os.environ, MARK: self.mark, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                [null.fileno(), output.fileno(), output.fileno(), holds],
                new_session=True,
            )
        os.close(holds)

    def survivors(self) -> list[int]:
        """Every process but pytest itself that carries this session's mark, by environment or by descent.

        Those of a fork storm are gone before one has looked at them: then it is -1, while somebody holds the
        descriptor that pytest was given.
        """
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in (self.process.pid, os.getpid()):
                try:
                    marked = self.mark.encode() in Path(f"/proc/{name}/environ").read_bytes()
                except OSError:
                    continue
                if marked and psutil.pid_exists(int(name)):
                    found.append(int(name))
        held = self.process.poll() is not None and not select.select([self._held], [], [], 0)[0]
        return [pid for pid in found if _runs(pid)] or [-1] * held

    def wait_for(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until it holds; fails with the session's output if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not in {seconds} s; the session wrote:\n{self.output.read_text()}")
            time.sleep(0.005)

    def end(self) -> None:
        """Kill what a failed test left: pytest, so that the guardians sweep, and only then whatever is left."""
        self.process.kill()
        self.process.wait(10)
        deadline = time.monotonic() + 3.0
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if pid > 0 else None
        os.close(self._held)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.Error:
        return False


@pytest.fixture
def session(tmp_path: Path, template: Template) -> Iterator[Callable[..., Session]]:
    """Start a pytest in the background: `session(code, *arguments)`."""
    made: list[Session] = []

    def start(code: str, *arguments: str) -> Session:
        made.append(Session(template, tmp_path, code, *arguments))
        return made[-1]

    yield start
    for session in made:
        session.end()
