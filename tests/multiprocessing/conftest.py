"""Groups of ranks without the plugin: of a zygote whose ranks do what their job says, and of `start_processes`."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pytest_elastic.errors import SurvivorsError
from pytest_elastic.multiprocessing import PContext, RunProcsResult, Std, _shared, start_processes
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote


def _daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 256)
        os.execvp("sleep", ["sleep", "1000"])


def _storm() -> None:
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


JOBS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "sleep": lambda: time.sleep(1000),
    "ignore": lambda: (_ignore(), time.sleep(1000)),
    "gil": lambda: ctypes.PyDLL(None).sleep(1000),
    "stop": lambda: (os.kill(os.getpid(), signal.SIGSTOP), time.sleep(1000)),
    "child": lambda: (subprocess.Popen(["sleep", "1000"]), time.sleep(1000)),
    "session": lambda: (subprocess.Popen(["sleep", "1000"], start_new_session=True), time.sleep(1000)),
    "daemon": lambda: (_daemon(), time.sleep(1000)),
    "storm": lambda: (_storm(), time.sleep(1000)),
    "leak": lambda: subprocess.Popen(["sleep", "1000"]),
    "leak-daemon": _daemon,
    "leak-helper": lambda: subprocess.Popen(["/lib/torch_shm_manager", "1000"], executable="sleep"),
    "segfault": lambda: (faulthandler.disable(), ctypes.string_at(0)),
    "error": lambda: 1 / 0,
}


def run_job(start: RankStart) -> int:
    """In a rank: an exit code, something of `JOBS`, or `{"trap": file}`: exit 0 on SIGTERM, once there is the file."""
    if isinstance(start.job, int):
        return start.job
    if isinstance(start.job, dict):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        open(start.job["trap"], "w").close()
        while True:  # Python may see a signal just before a long sleep, and handle it after that.
            time.sleep(0.01)
    JOBS[start.job]()
    return 0


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    """A zygote that ends with the test."""
    made = Zygote.fork(run_job)
    yield made
    made.close()


@pytest.fixture
def start(zygote: Zygote, tmp_path) -> Iterator[Callable[..., Group]]:
    """Start a group: `start(job_of_rank_0, job_of_rank_1, ...)`."""
    groups: list[Group] = []

    def begin(*jobs: object) -> Group:
        starts = [
            RankStart(
                rank, {"RANK": str(rank)}, str(tmp_path / f"{rank}.out"), str(tmp_path / f"{rank}.err"), job
            )
            for rank, job in enumerate(jobs)
        ]
        groups.append(Group(zygote.start_group(starts)))
        groups[-1].wait_started(20)
        return groups[-1]

    yield begin
    for group in groups:
        group.close()


HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(scope="session")
def shared_zygote() -> Iterator[None]:
    """The zygote of spawn, forkserver and programs: it idles until the end, and no single test leaves it."""
    group = _shared.start_group([], 20)
    group.wait_ended(20)
    group.close()
    yield
    for zygote in _shared._zygotes.values():
        zygote.close()
    _shared._zygotes.clear()


@pytest.fixture
def launch(shared_zygote: None, tmp_path: Path) -> Iterator[Callable[..., PContext]]:
    """`launch(entrypoint, nprocs)`: `start_processes` by fork, each rank called with its number, all logs in files.

    The handlers of the launcher are as before when all contexts have ended.
    """
    contexts: list[PContext] = []
    handlers = [signal.getsignal(number) for number in HANDLED]

    def begin(entrypoint: object, nprocs: int = 3, **named: object) -> PContext:
        args = named.pop("args", {rank: (rank,) for rank in range(nprocs)})
        named.setdefault("start_method", "fork")
        if "logs_specs" not in named:
            directory = tmp_path / f"logs{len(contexts)}"
            directory.mkdir()
            named = {"log_dir": directory, "redirects": Std.ALL, **named}
        envs = named.pop("envs", {rank: {} for rank in args})
        contexts.append(start_processes("trainer", entrypoint, args, envs, **named))
        return contexts[-1]

    yield begin
    for context in contexts:
        with contextlib.suppress(SurvivorsError):
            context.close(timeout=0)
    assert [signal.getsignal(number) for number in HANDLED] == handlers


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@pytest.fixture
def nobody_left() -> Callable[[PContext], None]:
    """Fails if anything of this group runs."""

    def check(context: PContext) -> None:
        for pid in context.pids().values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        mark = context.marker()["PYTEST_ELASTIC_GROUP"].encode()
        assert [pid for pid in psutil.pids() if _has(pid, mark)] == []

    return check


@pytest.fixture
def result_of(nobody_left: Callable[[PContext], None]) -> Callable[..., RunProcsResult]:
    """`wait` for the result; nothing of the group is left then."""

    def finish(context: PContext, period: float = 0.1) -> RunProcsResult:
        result = context.wait(timeout=60, period=period)
        assert result is not None
        nobody_left(context)
        return result

    return finish
