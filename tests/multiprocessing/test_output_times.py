"""When ranks wrote their output: by files that grow, without a rank."""

from __future__ import annotations

import pytest

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.loop import Loop
from pytest_elastic.multiprocessing import Inotify, OutputTimes

HEARD = 0.5  # Seconds, at most.


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def outputs(loop, tmp_path):
    made = OutputTimes(loop, {(rank, "stdout"): tmp_path / f"{rank}.log" for rank in range(2)})
    yield made
    made.close()


def write(loop: Loop, path, text: bytes) -> float:
    """Append to a file, and serve the loop until it has heard and listens again; when it was written."""
    with path.open("ab", buffering=0) as file:
        file.write(text)
    at = SYSTEM_CLOCK.monotonic()
    loop.step(HEARD)
    loop.step(HEARD)
    return at


def test_a_line_has_the_time_of_its_end(loop, outputs, tmp_path):
    """In the order of time, over all ranks."""
    first = write(loop, tmp_path / "1.log", b"one\ntw")
    second = write(loop, tmp_path / "0.log", b"zero\n")
    third = write(loop, tmp_path / "1.log", b"o\n")
    lines = outputs.lines()
    assert [(line.rank, line.text) for line in lines] == [(1, "one"), (0, "zero"), (1, "two")]
    times = [line.at for line in lines]
    assert first <= times[0] < second <= times[1] < third <= times[2]


def test_what_was_before_the_beginning_does_not_count(loop, outputs, tmp_path):
    """Of a test that the same ranks have run before."""
    write(loop, tmp_path / "0.log", b"old\n")
    outputs.begin()
    write(loop, tmp_path / "0.log", b"new\n")
    assert [line.text for line in outputs.lines()] == ["new"]


def test_lines_are_known_after_the_end(outputs, tmp_path):
    """With what nobody had looked at before."""
    (tmp_path / "0.log").write_bytes(b"last words")
    outputs.close()
    (tmp_path / "0.log").write_bytes(b"last words of somebody else\n")
    assert [line.text for line in outputs.lines()] == ["last words"]


def test_of_a_long_file_the_end_is_told(outputs, tmp_path):
    """And how much is not."""
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(b"line %06d\n" % number for number in range(100_000)))
    lines = outputs.lines()
    assert lines[-1].text == "line 099999"
    assert lines[0].text == f"({1_200_000 - 65_536:,} bytes before this are in {path})"


def test_what_was_written_over_is_not_told(outputs, tmp_path):
    """A progress bar has one line; bytes that are no text do no harm."""
    (tmp_path / "0.log").write_bytes(b"1 %\r2 %\r100 %\n\xff\r\n\n")
    assert [line.text for line in outputs.lines()] == ["100 %", "\ufffd", ""]


def test_what_the_kernel_tells_with_is_for_the_next_group(tmp_path):
    """Which hears of its own files only."""
    spare: list[Inotify] = []
    for number in range(2):
        loop = Loop()
        path = tmp_path / f"{number}.log"
        outputs = OutputTimes(loop, {(0, "stdout"): path}, spare)
        assert spare == []
        at = write(loop, path, b"heard\n")
        write(loop, tmp_path / "0.log", b"of the first\n")
        (line, *_) = outputs.lines()
        assert line.text == "heard"
        assert line.at - at < HEARD
        outputs.close()
        loop.close()
        assert len(spare) == 1
    spare.pop().close()
