"""The stacks that ranks write on demand."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from pytest_elastic.launch._dumps import Dumps
from pytest_elastic.launch._rank import DUMP_SIGNAL

DUMP = 'Current thread 0x01 (most recent call first):\n  File "t.py", line {line} in {name}\n'


class Group:
    """Ranks that write when they are asked to."""

    def __init__(self, directories: dict[int, Path], gone: tuple[int, ...] = ()) -> None:
        self.directories, self.exits = directories, dict.fromkeys(gone)
        self.signals: list[tuple[tuple[int, ...], int]] = []

    def signal(self, ranks: tuple[int, ...], number: int) -> None:
        self.signals.append((ranks, number))
        for rank in ranks if number == DUMP_SIGNAL else ():
            if rank not in self.exits:
                with (self.directories[rank] / "stacks.log").open("a") as file:
                    file.write(DUMP.format(line=len(self.signals), name=f"rank{rank}"))

    def take(self) -> None:
        """No news."""


def directories(tmp_path: Path, number: int = 2) -> dict[int, Path]:
    found = {rank: tmp_path / str(rank) for rank in range(number)}
    for path in found.values():
        path.mkdir()
    return found


def lines(stacks: dict[int, Any]) -> dict[int, list[int]]:
    return {rank: [stack.frames[-1].line for stack in found] for rank, found in stacks.items()}


def test_each_dump_is_read_by_itself(tmp_path: Path) -> None:
    """What a rank wrote before is not taken for where it stands now."""
    places = directories(tmp_path)
    group: Any = Group(places)
    dumps = Dumps(places)
    assert lines(dumps.take(group, [0, 1])) == {0: [1], 1: [1]}
    assert lines(dumps.take(group, [1])) == {1: [3]}
    assert [stack.frames[-1].function for stack in dumps.last(0)] == ["rank0"]


def test_who_is_stopped_goes_on_once_it_has_been_asked(tmp_path: Path) -> None:
    """The order of the two signals is what makes it write where it was stopped."""
    places = directories(tmp_path)
    group: Any = Group(places)
    Dumps(places).take(group, [0, 1], [1])
    assert group.signals == [((0, 1), DUMP_SIGNAL), ((1,), signal.SIGCONT)]


def test_who_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    """It has no stack."""
    places = directories(tmp_path)
    group: Any = Group(places, gone=(1,))
    assert lines(Dumps(places).take(group, [0, 1])) == {0: [1], 1: []}


def test_two_who_ask_at_once_get_one_dump_each(tmp_path: Path) -> None:
    """The second waits for the first, and reads its own."""
    places = directories(tmp_path, 1)
    group: Any = Group(places)
    dumps, found = Dumps(places), []
    threads = [threading.Thread(target=lambda: found.append(dumps.take(group, [0]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(len(one[0]) for one in found) == [1, 1]
