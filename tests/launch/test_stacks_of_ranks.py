"""The stacks that ranks write on demand."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.clock import Deadline
from pytest_elastic.launch._rank import DUMP_SIGNAL
from pytest_elastic.launch._stacks import RankStacks
from pytest_elastic.loop import Loop

DUMP = 'Current thread 0x01 (most recent call first):\n  File "t.py", line {line} in {name}\n'


class Group:
    """Ranks that write when they are asked to."""

    def __init__(self, directories: dict[int, Path], gone: tuple[int, ...] = ()) -> None:
        self.directories, self.exits = directories, dict.fromkeys(gone)
        self.pids = {0: 10, 1: 11}
        self.signals: list[tuple[tuple[int, ...], int]] = []

    def signal(self, ranks: tuple[int, ...], number: int) -> None:
        self.signals.append((ranks, number))
        for rank in ranks if number == DUMP_SIGNAL else ():
            if rank not in self.exits:
                with (self.directories[rank] / "stacks.log").open("a") as file:
                    file.write(DUMP.format(line=len(self.signals), name=f"rank{rank}"))


class Dumps:
    """The stacks of ranks, asked for by a thread that waits for them."""

    def __init__(self, directories: dict[int, Path], group: Any) -> None:
        self.group, self.loop = group, Loop()
        self.stacks = RankStacks(directories, self.loop)
        self.last = self.stacks.last

    def take(self, *requests: list[int]) -> list[dict[int, Any]]:
        """The answers to these requests, made at once."""
        found: list[dict[int, Any]] = []
        for ranks in requests:
            self.loop.call(lambda ranks=ranks: self.stacks.take(self.group, ranks, found.append))
        assert self.loop.wait(lambda: len(found) == len(requests), Deadline.after(20))
        return found


def directories(tmp_path: Path, number: int = 2) -> dict[int, Path]:
    found = {rank: tmp_path / str(rank) for rank in range(number)}
    for path in found.values():
        path.mkdir()
    return found


def lines(stacks: dict[int, Any]) -> dict[int, list[int]]:
    return {rank: [stack.frames[-1].line for stack in found] for rank, found in stacks.items()}


@pytest.fixture
def dumps(tmp_path: Path) -> Iterator[Callable[..., Dumps]]:
    """Those of two ranks: `dumps(gone=(1,))`."""
    made: list[Dumps] = []

    def make(gone: tuple[int, ...] = ()) -> Dumps:
        places = directories(tmp_path)
        made.append(Dumps(places, Group(places, gone)))
        return made[-1]

    yield make
    for one in made:
        one.loop.close()


def test_each_dump_is_read_by_itself(dumps) -> None:
    """What a rank wrote before is not taken for where it stands now."""
    one = dumps()
    assert lines(*one.take([0, 1])) == {0: [1], 1: [1]}
    assert lines(*one.take([1])) == {1: [2]}
    assert [stack.frames[-1].function for stack in one.last(0)] == ["rank0"]


def test_who_is_stopped_goes_on_once_it_has_been_asked(dumps, monkeypatch) -> None:
    """The order of the two signals is what makes it write where it was stopped."""
    monkeypatch.setattr("pytest_elastic.processes.Family.state", lambda family: "TS"[family.pid == 10])
    monkeypatch.setattr("pytest_elastic.launch._stacks.find_spy", lambda: None)
    one = dumps()
    one.take([0, 1])
    assert one.group.signals == [((0, 1), DUMP_SIGNAL), ((1,), signal.SIGCONT)]


def test_who_is_gone_is_not_waited_for(dumps) -> None:
    """It has no stack."""
    assert lines(*dumps(gone=(1,)).take([0, 1])) == {0: [1], 1: []}


def test_two_who_ask_at_once_get_one_dump_each(dumps) -> None:
    """The second waits for the first, and reads its own."""
    found = dumps().take([0], [0])
    assert [len(one[0]) for one in found] == [1, 1]


def test_the_loop_goes_on_while_a_rank_does_not_write(dumps) -> None:
    """Only the answer waits, for half a second."""
    one = dumps()
    one.group.exits = {}
    one.group.signal = lambda ranks, number: None
    found: list[Any] = []
    one.loop.start()
    one.loop.call(lambda: one.stacks.take(one.group, [0], found.append))
    assert one.loop.call(lambda: len(found)) == 0
    deadline = time.monotonic() + 20
    while not found:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found == [{0: []}]
