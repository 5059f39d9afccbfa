"""Groups of ranks without pytest: a zygote whose ranks do what their job says."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._guardian import RankStart
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
    "segfault": lambda: ctypes.string_at(0),
    "error": lambda: 1 / 0,
}


def run_job(start: RankStart) -> int:
    """In a rank: an exit code, something of `JOBS`, or `{"trap": file}`: exit 0 on SIGTERM, once there is the file."""
    if isinstance(start.job, int):
        return start.job
    if isinstance(start.job, dict):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        open(start.job["trap"], "w").close()
        time.sleep(1000)
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
