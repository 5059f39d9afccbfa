"""Lines out of bytes that come in pieces, from a file that may be truncated, replaced or no file at all."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_elastic.multiprocessing._follow import PIECE, Lines, LogFile

NASTY = [b"a", b"bc", b"\n", b"\r", b"\r\n", "é€😀".encode(), b"\xff", b"\xe2\x82", b"\xac", b"\x0c", b"\x00"]


def rendered(data: bytes, header: str) -> str:
    """What the contract says about a file with these bytes, in one expression."""
    lines = re.split(rb"\r\n|\r|\n", data)
    if not lines[-1]:
        lines.pop()
    return "".join(f"{header}{line.decode('utf-8', 'replace')}\n" for line in lines)


@given(pieces=st.lists(st.lists(st.sampled_from(NASTY)).map(b"".join)), header=st.sampled_from(["", "[r0]:"]))
def test_pieces_do_not_matter(pieces, header):
    """However bytes are cut into reads, lines, characters and line ends come out whole."""
    for keep in (None, lambda line: True):
        lines = Lines(header, keep)
        assert "".join([lines.feed(piece) for piece in pieces] + [lines.end()]) == rendered(
            b"".join(pieces), header
        )


def test_a_half_line_waits():
    """Nothing comes out before the newline, and then one line with one header."""
    lines = Lines("[r0]:")
    assert [lines.feed(b"ha"), lines.feed(b"lf"), lines.feed(b"\nne")] == ["", "", "[r0]:half\n"]


def test_a_return_at_the_end_waits_for_the_next_byte():
    """Until it is known whether a newline follows, the line has not ended."""
    lines = Lines("")
    assert [lines.feed(b"a\r"), lines.feed(b"\nb\r"), lines.feed(b"c")] == ["", "a\n", "b\n"]


def test_empty_lines_keep_their_header():
    """Each of them is a line."""
    assert Lines("h:").feed(b"\n\na\n") == "h:\nh:\nh:a\n"


@pytest.mark.parametrize(
    ("rest", "expected"), [(b"", ""), (b"x", "h:x\n"), (b"\r", "h:\n"), (b"x\r", "h:x\n")]
)
def test_the_end_completes_the_last_line(rest, expected):
    """One newline is added, and nothing where no line had begun; a second end has nothing."""
    lines = Lines("h:")
    lines.feed(b"before\n" + rest)
    assert (lines.end(), lines.end()) == (expected, "")


def test_a_bad_byte_takes_no_newline_with_it():
    """A character cut off by the line's end becomes one U+FFFD."""
    assert Lines("").feed(b"\xe2\x82\nb\xff\n") == "�\nb�\n"


def test_the_filter_sees_raw_lines():
    """With its newline, without the header; only what is true passes."""
    seen = []
    lines = Lines("h:", lambda line: seen.append(line) or "2" in line)
    assert lines.feed(b"1\n2\n\n") == "h:2\n"
    assert seen == ["1\n", "2\n", "\n"]


def test_a_filter_that_raises_drops_its_line():
    """The first error is kept, the lines after it pass."""
    lines = Lines("", lambda line: 1 / int(line))
    assert lines.feed(b"0\nx\n1\n") == "1\n"
    assert isinstance(lines.filter_error, ZeroDivisionError)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stdout.log"


@pytest.fixture
def log(path):
    made = LogFile(0, str(path), Lines(""))
    yield made
    made.end()


def read_all(log: LogFile) -> str:
    log.look()
    text = log.read()
    while log.behind:
        text += log.read()
    return text


@pytest.mark.parametrize("name", ["none", "file/below", ""])
def test_a_file_that_is_not_there_is_no_error(tmp_path, name):
    """Nothing to read, nothing wrong."""
    (tmp_path / "file").write_text("")
    log = LogFile(0, str(tmp_path / name) if name else "", Lines(""))
    assert (log.look(), log.read(), log.behind, log.error) == (None, "", False, None)


def test_look_opens_a_file_once(log, path):
    """Its descriptor is new the first time only."""
    path.write_text("a\n")
    assert isinstance(log.look(), int)
    assert log.look() is None


def test_a_read_is_bounded(log, path):
    """A big file comes in pieces, and what is left is known."""
    path.write_bytes(b"x" * 9 + b"\n" + b"y" * PIECE)
    log.look()
    assert (log.read(), log.behind) == ("x" * 9 + "\n", True)
    assert (log.read(), log.behind, log.end()) == ("", False, "y" * PIECE + "\n")


def test_a_file_that_shrinks_is_read_from_its_start(log, path):
    """Also the half line before the cut comes out, as a line."""
    path.write_text("first\nhalf")
    assert read_all(log) == "first\n"
    path.write_text("new\n")
    assert read_all(log) == "half\nnew\n"


def test_a_replaced_file_is_read_out_first(log, path):
    """What was written to the old one before the new one came is not lost, whichever way it was replaced."""
    path.write_text("a\n")
    assert read_all(log) == "a\n"
    with path.open("a") as old:
        os.rename(path, path.with_suffix(".1"))
        old.write("b\nhalf")
    path.write_text("c\n")
    assert [log.look() is None, log.look()] == [False, None]
    path.unlink()
    path.write_text("d\n")
    assert read_all(log) == "b\nhalf\nc\nd\n"


def test_a_deleted_file_ends_quietly(log, path):
    """What its writer still writes is read, since we hold it too."""
    with path.open("w") as writer:
        assert read_all(log) == ""
        path.unlink()
        writer.write("last\n")
        writer.flush()
        assert (read_all(log), log.error) == ("last\n", None)


def test_sealed_means_what_is_there_now(log, path):
    """What comes later is not read any more."""
    path.write_text("a\n")
    log.look()
    log.seal()
    with path.open("a") as writer:
        writer.write("b\n")
    assert (read_all(log), log.end()) == ("a\n", "")


@pytest.mark.parametrize("kind", ["directory", "nul", "too long"])
def test_what_cannot_be_read_is_kept_as_the_error(tmp_path, kind):
    """It is not tried again, and holds no descriptor."""
    path = {"directory": tmp_path, "nul": f"{tmp_path}/a\0b", "too long": f"{tmp_path}/{'x' * 300}"}[kind]
    log = LogFile(0, str(path), Lines(""))
    before = os.listdir("/proc/self/fd")
    assert read_all(log) == ""
    expected = {"directory": IsADirectoryError, "nul": ValueError, "too long": OSError}[kind]
    assert isinstance(log.error, expected)
    assert (log.look(), os.listdir("/proc/self/fd")) == (None, before)


def test_a_pipe_is_read_without_blocking(log, path):
    """Neither opening nor reading one waits for a writer; the end takes one piece of it."""
    os.mkfifo(path)
    assert read_all(log) == ""
    with open(path, "wb", buffering=0) as writer:
        assert read_all(log) == ""
        writer.write(b"a\nb")
        assert read_all(log) == "a\n"
        writer.write(b"c\n")
        log.seal()
        assert read_all(log) == "bc\n"


def test_a_device_has_nothing(tmp_path):
    """`os.devnull` as a log is read like an empty file."""
    log = LogFile(0, os.devnull, Lines(""))
    assert (read_all(log), log.error, log.end()) == ("", None, "")
