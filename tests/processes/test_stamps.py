"""Whether the threads of a process have run since the last look."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pytest_elastic.processes import Family, threads

LONG = 20.0
# It does what each line says: another thread, which waits, or lets that thread run for a moment.
SERVANT = """
import sys, threading
turn, done = threading.Semaphore(0), threading.Semaphore(0)
def work():
    while turn.acquire():
        done.release()
for line in sys.stdin:
    if line == "begin\\n":
        threading.Thread(target=work, daemon=True).start()
        turn.release()
        done.acquire()
    elif line == "run\\n":
        turn.release()
        done.acquire()
    print("done", flush=True)
"""


class Servant:
    """A process, and its family."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-E", "-c", SERVANT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.family = Family(self.process.pid)

    def obey(self, line: str) -> bytes:
        """Have it do something; its stamp when all of its threads are asleep again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        self.process.stdout.readline()
        deadline = time.monotonic() + LONG
        while any(one.state != "S" for one in threads(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.family.stamp()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def servant() -> Iterator[Servant]:
    made = Servant()
    yield made
    made.end()
    made.family.close()


def files_of(pid: int) -> int:
    """How many files of this process's threads we have open."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # That of the list.
            pass
    return sum(target.startswith(f"/proc/{pid}/task/") for target in targets)


def test_it_changes_when_the_process_has_run(servant: Servant) -> None:
    """Asleep it stays the same; there is none of a process that is gone, and nothing is left open."""
    first = servant.obey("nothing")
    assert first
    assert servant.family.stamp() == first
    assert servant.obey("nothing") not in (b"", first)
    assert files_of(servant.process.pid) == 2
    servant.end()
    assert servant.family.stamp() == b""
    assert files_of(servant.process.pid) == 0


def test_it_tells_of_every_thread(servant: Servant) -> None:
    """A thread that has begun is seen, and when it has run; of very many threads there is no stamp."""
    servant.obey("nothing")
    assert servant.obey("begin") == b""
    both = servant.family.stamp()
    assert both
    assert servant.family.stamp() == both
    assert files_of(servant.process.pid) == 4
    assert servant.obey("run") not in (b"", both)
    for _ in range(3):
        servant.obey("begin")
    assert servant.family.stamp() == b""
    assert servant.family.stamp() == b""
    assert files_of(servant.process.pid) == 0


def test_a_process_that_runs_is_told_from_one_that_sleeps(servant: Servant) -> None:
    """There is no stamp of it."""
    servant.obey("nothing")
    assert not servant.family.runs
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        family = Family(busy.pid)
        assert family.stamp() == b""
        assert family.runs
        busy.kill()
        family.close()


def test_what_was_closed_is_opened_again(servant: Servant) -> None:
    """And the stamp is the same: nothing has run."""
    first = servant.obey("nothing")
    servant.family.close()
    assert files_of(servant.process.pid) == 0
    assert servant.family.stamp() == first


def test_the_last_descriptors_are_left_to_others(servant: Servant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no stamp, and nothing stays open."""
    monkeypatch.setattr("pytest_elastic.processes._stamps.descriptor_limit", lambda: 4)
    assert servant.obey("nothing") == b""
    assert files_of(servant.process.pid) == 0
    monkeypatch.setattr("pytest_elastic.processes._stamps.descriptor_limit", lambda: -1)
    assert servant.family.stamp()
