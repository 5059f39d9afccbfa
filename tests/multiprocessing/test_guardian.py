"""A guardian starts ranks, reports every exit, names leaks, and leaves nobody."""

from __future__ import annotations

import os
import resource
import signal
import time

import psutil
import pytest

from pytest_elastic.errors import GuardianError
from pytest_elastic.multiprocessing import _guardian, _stop
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._messages import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote
from pytest_elastic.processes import descendants


def ended(group, grace=20.0):
    """Wait for the end: (rank -> exit code, what the guardian said last)."""
    group.wait_ended(grace)
    return {rank: exited.exitcode for rank, exited in sorted(group.exits.items())}, group.ended


def test_exit_codes(start):
    """Codes and signals of all ranks, in the order in which they ended."""
    codes, last = ended(start(0, 3, "segfault", "error"))
    assert codes == {0: 0, 1: 3, 2: -signal.SIGSEGV, 3: 1}
    assert (last.leaks, last.survivors) == ((), {})


def test_an_uncaught_error_is_in_the_ranks_log(start, tmp_path):
    """Its traceback goes to the rank's stderr file."""
    ended(start("error"))
    assert "ZeroDivisionError" in (tmp_path / "0.err").read_text()


def test_ranks_lead_their_own_process_group(start):
    """The launcher's process group is never signalled with theirs."""
    group = start("sleep", "sleep")
    assert [os.getpgid(pid) for pid in group.pids.values()] == list(group.pids.values())
    group.stop(signal.SIGTERM, 5)
    assert ended(group)[0] == {0: -15, 1: -15}


@pytest.mark.parametrize("job", ["leak", "leak-daemon"])
def test_leaks_are_named_and_killed(start, job):
    """What outlives the ranks is told with pid, command and rank, and is gone."""
    _, last = ended(start("nothing", job))
    (leak,) = last.leaks
    assert (leak.command, leak.rank) == ("sleep 1000", 1)
    assert not psutil.pid_exists(leak.pid)


@pytest.mark.parametrize("other", ["sleep", "ignore"])
def test_leaks_are_named_when_the_others_are_stopped(start, other):
    """The signal that stops the ranks does not end unnamed what an earlier one left, however they end."""
    group = start(other, "leak-daemon")
    while 1 not in group.exits:
        group.take(10)
    group.stop(signal.SIGTERM, 0.3)
    codes, last = ended(group)
    assert codes[1] == 0
    assert codes[0] in (-signal.SIGTERM, -signal.SIGKILL)
    (leak,) = last.leaks
    assert (leak.command, leak.rank) == ("sleep 1000", 1)
    assert not psutil.pid_exists(leak.pid)


@pytest.mark.parametrize("job", ["sleep", "gil", "stop", "child", "session", "daemon", "storm", "ignore"])
@pytest.mark.parametrize("grace", [0, 0.3])
def test_stop_leaves_nobody(start, zygote, job, grace):
    """The stop sequence ends every kind of rank and all that it started."""
    group = start(job, job)
    group.stop(signal.SIGTERM, grace)
    codes, last = ended(group, grace)
    assert set(codes.values()) <= {-signal.SIGTERM, -signal.SIGKILL}
    assert last.survivors == {}
    # The guardian said so with its last breath: it may itself still be ending.
    _, alive = psutil.wait_procs(psutil.Process(zygote.pid).children(recursive=True), timeout=5)
    assert alive == []


def test_a_stopped_rank_sees_the_signal(start):
    """SIGCONT follows, so that a rank under SIGSTOP ends by the signal and not by SIGKILL."""
    group = start("stop")
    group.stop(signal.SIGTERM, 10)
    assert ended(group)[0] == {0: -signal.SIGTERM}


def test_a_trapped_signal(start, tmp_path, monkeypatch):
    """A rank that traps it and exits 0 has that exit code."""
    group = start({"trap": str(tmp_path / "trapping")})
    while not (tmp_path / "trapping").exists():
        pass
    group.stop(signal.SIGTERM, 5)
    assert ended(group)[0] == {0: 0}


def test_a_second_stop_shortens_the_grace(start):
    """Impatience is obeyed."""
    group = start("ignore")
    group.stop(signal.SIGTERM, 60)
    group.stop(signal.SIGTERM, 0)
    assert ended(group)[0] == {0: -signal.SIGKILL}


def test_signals_for_one_rank(start):
    """Others are not touched."""
    group = start("sleep", "sleep")
    group.signal((1,), signal.SIGUSR1)
    while 1 not in group.exits:
        group.take(10)
    assert group.exits[1].exitcode == -signal.SIGUSR1
    assert 0 not in group.exits
    group.stop(signal.SIGTERM, 5)
    ended(group)


def test_closing_the_channel_is_the_end(start, zygote):
    """A launcher that lets go has given up: everything is swept."""
    group = start("ignore", "daemon")
    pids = list(group.pids.values())
    group.close()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    assert not any(map(psutil.pid_exists, pids))


def test_a_rank_that_cannot_be_forked(zygote):
    """The error comes back, and the ranks before it are gone."""
    starts = [RankStart(0, {}, "", "", "sleep"), RankStart(1, {}, "", "", "sleep")]
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.getuid() == 0:
        pytest.skip("root has no limit on processes")
    resource.prlimit(zygote.pid, resource.RLIMIT_NPROC, (0, hard))
    group = Group(zygote.start_group(starts))
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        group.wait_started(20)
    group.close()


def test_a_killed_guardian(start, zygote):
    """Its ranks die with it, and what they had started is swept by the zygote."""
    group = start("sleep", "daemon")
    guardian = psutil.Process(group.pids[0]).parent()
    children = guardian.children(recursive=True)
    guardian.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    while not group.over:
        group.take(10)
    assert group.lost


def test_a_zygote_that_is_gone(zygote, start):
    """Asking it is one clear error."""
    start("nothing")
    os.kill(zygote.pid, signal.SIGKILL)
    os.waitid(os.P_PID, zygote.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(GuardianError, match="the zygote is gone"):
        start("nothing")


def test_many_groups_leave_no_descriptor(start):
    """This process has as many descriptors as before."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        group = start(0, 0)
        group.wait_ended(10)
        group.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_helper_that_stays_is_no_leak(start):
    """It is killed without a word, beside a leak that is named."""
    group = start("leak-helper", "leak")
    group.wait_ended(10)
    assert [(leak.rank, leak.command) for leak in group.ended.leaks] == [(1, "sleep 1000")]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_a_rank_had_that_we_ended_is_no_leak(start, end, until):
    """The children of a rank that the launcher stops or kills go with it; what another one left is a leak."""
    group = start("child", "leak")
    children = psutil.Process(group.pids[0]).children
    until(children)
    while 1 not in group.exits:
        group.take(10)
    if end == "stop":
        group.stop(signal.SIGTERM, 10)
    else:
        group.signal((0,), signal.SIGKILL)
    group.wait_ended(10)
    assert [leak.rank for leak in group.ended.leaks] == [1]


def sleep_on_much() -> int:
    """In a rank: half a GiB, that takes the kernel a while to free."""
    memory = b"1" * (1 << 29)
    time.sleep(1000)
    return len(memory)


def impatient_sweep(limit: float = 0.0) -> dict[int, str]:
    """Kills, and does not wait unless it is told how long."""
    victims = descendants(os.getpid())
    for victim in victims:
        _stop.send(victim, signal.SIGKILL)
    return _stop.sweep(limit=limit) if limit else {victim.pid: "sleeper" for victim in victims}


def test_a_dying_rank_is_no_survivor(monkeypatch):
    """The kernel takes its time with the memory of a killed rank: it is waited for."""
    monkeypatch.setattr(_guardian, "sweep", impatient_sweep)
    zygote = Zygote.fork(lambda start: sleep_on_much())
    group = Group(zygote.start_group([RankStart(0, {}, "", "", None)]))
    group.wait_started(20)
    rank = psutil.Process(group.pids[0])
    while rank.memory_info().rss < 1 << 29:
        pass
    group.stop(signal.SIGTERM, 0)
    group.wait_ended(0)
    group.close()
    zygote.close()
    assert (group.ended.survivors, group.exits[0].exitcode) == ({}, -signal.SIGKILL)
    assert not psutil.pid_exists(rank.pid)
