"""Zygotes: forked, or spawned as fresh interpreters; they end with their launcher."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from pytest_elastic.multiprocessing import _zygote
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote


def exit_with(start: RankStart) -> int:
    """In a rank of a spawned zygote."""
    return int(start.job)


def test_spawned_zygote():
    """A fresh interpreter forks ranks that run a function by its name."""
    zygote = Zygote.spawn("os", "getpid")
    zygote.close()
    assert not psutil.pid_exists(zygote.pid)


def test_ranks_of_a_spawned_zygote(monkeypatch):
    """It finds modules where this process finds them."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    zygote = Zygote.spawn("test_zygote", "exit_with")
    group = Group(zygote.start_group([RankStart(rank, {}, "", "", rank + 5) for rank in range(2)]))
    group.wait_started(20)
    group.wait_ended(20)
    group.close()
    zygote.close()
    assert {rank: exited.exitcode for rank, exited in group.exits.items()} == {0: 5, 1: 6}


def test_close_ends_running_groups(start, zygote):
    """Ending the zygote ends what it started, within its bound."""
    group = start("ignore", "daemon")
    pids = list(group.pids.values())
    zygote.close()
    zygote.close()
    assert not any(map(psutil.pid_exists, pids))


def test_a_launcher_that_ends_takes_all_along(tmp_path):
    """A launcher that ends without a word, its channel held open by a stranger: nobody is left."""
    code = textwrap.dedent(
        """
        import os, subprocess, sys, time
        from pytest_elastic.multiprocessing._group import Group
        from pytest_elastic.multiprocessing._messages import RankStart
        from pytest_elastic.multiprocessing._zygote import Zygote
        zygote = Zygote.fork(lambda start: time.sleep(1000) or 0)
        group = Group(zygote.start_group([RankStart(0, {}, "", "", None)]))
        group.wait_started(20)
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        print(zygote.pid, *group.pids.values(), flush=True)
        os._exit(0)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=20, check=False
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=1.5)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_guardians_end_at_once():
    """The sweep that follows the first reaps the second: the zygote lives on."""
    child = os.fork()
    if child == 0:
        try:
            guardian = os.fork() or os._exit(0)
            pidfd = os.pidfd_open(guardian)
            os.waitpid(guardian, 0)
            _zygote.reap_guardian(pidfd, {pidfd: guardian})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_zygote_that_does_not_end_is_killed(zygote, until, caplog):
    """A stopped one: `close` is bounded, warns, and raises nothing."""
    os.kill(zygote.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(zygote.pid).status() == "stopped")
    with caplog.at_level(logging.WARNING):
        assert zygote.close(timeout=0.1) is False
    assert not psutil.pid_exists(zygote.pid)
    (record,) = caplog.records
    assert record.getMessage() == f"the zygote (pid {zygote.pid}) did not end within 0.1 s and was killed"
    assert zygote.close() is True


def test_requests_and_the_end_do_not_wait_for_huge_pages(monkeypatch, tmp_path):
    """A zygote that never comes to the end of its pages starts groups and ends as any other."""
    moved = tmp_path / "moved"

    def pages():
        while True:
            moved.touch()
            yield

    monkeypatch.setattr(_zygote, "collapse_memory", pages)
    monkeypatch.setattr(_zygote, "_MANY", 1)
    zygote = Zygote.fork(exit_with)
    for turn in range(3):
        group = Group(zygote.start_group([RankStart(0, {}, "", "", turn)]))
        group.wait_started(20)
        group.wait_ended(20)
        group.close()
        assert group.exits[0].exitcode == turn
    assert zygote.close(timeout=20) is True
    assert moved.exists()
