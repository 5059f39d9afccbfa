"""A group's loop serves its ranks whatever the launcher does, and ends with the group."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_elastic.launch import Plan, RankGroup, RankProcess
from pytest_elastic.multiprocessing import Zygote

LONG = 30.0


@pytest.fixture
def launcher() -> Iterator[Zygote]:
    """Forks ranks."""
    zygote = Zygote.fork(lambda start: RankProcess(start).live(lambda rank, order: None))
    yield zygote
    zygote.close()


@pytest.fixture
def start(launcher: Zygote, tmp_path: Path) -> Iterator[Callable[..., RankGroup]]:
    """Start a function on two ranks: `start(function)`."""
    groups: list[RankGroup] = []

    def begin(function: Callable[[int, int], object], keep: bool = True) -> RankGroup:
        group = RankGroup("two", launcher, Plan(2, tmp_path), (function, ()))
        group.start()
        if keep:
            groups.append(group)
        return group

    yield begin
    for group in groups:
        group.close(timeout=0)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def sleep(rank: int, world_size: int) -> None:
    time.sleep(1000)


def test_a_timer_expires_while_the_launcher_does_not_wait(start) -> None:
    """Its rank is killed, and where it stood is known."""

    def function(rank: int, world_size: int) -> None:
        from pytest_elastic.timer import expires

        with expires(after=0.2 if rank else 500, scope="exchange"):
            time.sleep(1000)

    group = start(function)
    until(lambda: group.group.exits)
    assert list(group.group.exits) == [1]
    assert group.timers.expiries[1].scope == "exchange"
    assert "function" in {frame.function for stack in group.timers.stood[1] for frame in stack.frames}


def test_the_store_goes_on_while_stacks_are_taken(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a stopped rank that nobody can look into take half a second."""
    monkeypatch.setattr("pytest_elastic.launch._stacks.find_spy", lambda: None)
    monkeypatch.setattr("pytest_elastic.processes.Family.state", lambda family: "S")
    group = start(sleep)
    store = group.store
    group.pause(1)
    until(lambda: psutil.Process(group.pids()[1]).status() == psutil.STATUS_STOPPED)
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(group.stacks([1])))
    asking.start()
    done = 0
    while asking.is_alive():
        store.set("k", str(done))
        done += 1
    asking.join()
    assert found == [{1: []}]
    assert done > 10


def test_close_in_another_thread_ends_a_wait(start) -> None:
    """It gets the result of what was stopped."""
    group = start(sleep)
    closing = threading.Timer(0.1, lambda: group.close(timeout=0))
    closing.start()
    result = group.wait()
    closing.join()
    assert sorted(result.stopped) == [0, 1]


def test_a_group_that_nobody_holds_ends(start) -> None:
    """With its ranks, its thread and its descriptors."""
    group = start(sleep, keep=False)
    ranks = [psutil.Process(pid) for pid in group.pids().values()]
    del group
    gc.collect()
    until(lambda: not any(rank.is_running() for rank in ranks))


def test_a_group_that_never_started_leaves_nothing(launcher: Zygote, tmp_path: Path) -> None:
    """Neither when it is closed nor when it is forgotten."""
    RankGroup("none", launcher, Plan(2, tmp_path)).close()
    gc.collect()


def test_a_fork_of_the_launcher_has_nothing_of_the_group(start) -> None:
    """No socket and no poller; the group of the launcher goes on."""
    before = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    group = start(sleep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # It has a thread besides.
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            names = [name for name in os.listdir("/proc/self/fd") if _is_open(name)]
            opened = {os.readlink(f"/proc/self/fd/{name}") for name in names} - before
            left = [one for one in opened if one.startswith(("socket:", "anon_inode:"))]
            # The port that is reserved for the ranks is a socket, and listens to nobody.
            code = 0 if len(left) <= 1 else 2
            del group
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    group.store.set("k", "1")
    assert group.wait(timeout=0) is None


def _is_open(name: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{name}")
