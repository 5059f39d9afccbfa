"""A standard stream goes to a file: for Python, for C and for children, and comes back."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import textwrap

import pytest

from pytest_elastic.multiprocessing.redirects import redirect, redirect_stderr, redirect_stdout

PRELUDE = """
import ctypes, io, os, sys
from contextlib import ExitStack
from pytest_elastic.multiprocessing.redirects import redirect, redirect_stderr, redirect_stdout
printf = ctypes.CDLL(None).printf
"""


@pytest.fixture
def script(tmp_path):
    """Run code in a Python of its own, whose streams are what they usually are; gives its two outputs."""

    def run(code, *options):
        done = subprocess.run(
            [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(code)],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def lines(path):
    return sorted(path.read_text().splitlines())


def test_python_c_and_children(script, tmp_path):
    """All three go to the file in the block, and to the stream outside of it."""
    everybody = 'print("python {0}"); printf(b"c {0}\\n"); sys.stdout.flush(); os.system("echo child {0}")'
    out, _ = script(f"""
        {everybody.format("before")}
        with redirect_stdout("out"):
            {everybody.format("in")}
        {everybody.format("after")}
    """)
    assert lines(tmp_path / "out") == ["c in", "child in", "python in"]
    assert sorted(out.splitlines()) == sorted(
        f"{who} {when}" for who in ("python", "c", "child") for when in ("before", "after")
    )


def test_buffers_fall_on_their_side(script, tmp_path):
    """What was printed before or in the block and not flushed is where it belongs."""
    out, _ = script("""
        print("python before"); printf(b"c before\\n")
        with redirect_stdout("out"):
            print("python in"); printf(b"c in\\n")
        print("python after"); printf(b"c after\\n")
    """)
    assert lines(tmp_path / "out") == ["c in", "python in"]
    assert sorted(out.splitlines()) == ["c after", "c before", "python after", "python before"]


def test_restored_after_an_error(script, tmp_path):
    """The body's error propagates."""
    out, _ = script("""
        try:
            with redirect_stdout("out"):
                print("in")
                raise KeyError("body")
        except KeyError as error:
            print(error)
    """)
    assert ((tmp_path / "out").read_text(), out) == ("in\n", "'body'\n")


def test_half_a_million_lines(script, tmp_path):
    """By Python and by C, at once: none lost, none added."""
    script("""
        with redirect_stdout("out"):
            for number in range(500_000):
                print("p", number)
        with redirect_stdout("c"):
            for number in range(0, 500_000, 100):
                printf(b"".join(b"c %d\\n" % n for n in range(number, number + 100)))
    """)
    assert (tmp_path / "out").read_text() == "".join(f"p {number}\n" for number in range(500_000))
    assert (tmp_path / "c").read_text() == "".join(f"c {number}\n" for number in range(500_000))


def test_truncated(script, tmp_path):
    """What the file held is gone; a hole is not made when somebody truncates it meanwhile."""
    (tmp_path / "out").write_text("old contents\n")
    script("""
        with redirect_stdout("out"):
            print("first", flush=True)
            os.truncate("out", 0)
            print("second")
    """)
    assert (tmp_path / "out").read_bytes() == b"second\n"


@pytest.mark.parametrize("first_out", [0, 1])
def test_both_streams_in_any_order(script, tmp_path, first_out):
    """Entered one after the other, left in either order."""
    out, err = script(f"""
        stacks = [ExitStack(), ExitStack()]
        stacks[0].enter_context(redirect_stdout("out"))
        stacks[1].enter_context(redirect_stderr("err"))
        print("o1"); print("e1", file=sys.stderr)
        stacks[{first_out}].close()
        print("o2"); print("e2", file=sys.stderr)
        stacks[{1 - first_out}].close()
        print("o3"); print("e3", file=sys.stderr)
    """)
    kept = {"out": ["o1", "o2"], "err": ["e1", "e2"]}
    kept["err" if first_out else "out"].pop()
    assert {name: lines(tmp_path / name) for name in kept} == kept
    assert (out.split()[-1], err.split()[-1]) == ("o3", "e3")


def test_the_same_stream_twice(script, tmp_path):
    """The inner file takes over, and gives back."""
    script("""
        with redirect_stdout("outer"):
            print("1")
            with redirect_stdout("inner"):
                print("2")
            print("3")
    """)
    assert (lines(tmp_path / "outer"), lines(tmp_path / "inner")) == (["1", "3"], ["2"])


def test_both_streams_to_one_file(script, tmp_path):
    """Neither overwrites the other."""
    script("""
        with redirect_stdout("both"), redirect_stderr("both"):
            print("o", flush=True)
            print("e", file=sys.stderr, flush=True)
            print("o", flush=True)
    """)
    assert (tmp_path / "both").read_text() == "o\ne\no\n"


def test_no_descriptor_leaks(tmp_path):
    """Neither in the block's end nor by its error."""
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with contextlib.suppress(KeyError), redirect_stdout(str(tmp_path / "out")):
            raise KeyError
    with contextlib.suppress(OSError), redirect_stdout(str(tmp_path)):
        pass
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_an_unknown_stream(tmp_path):
    """It is named, with those that there are."""
    with pytest.raises(ValueError, match="unknown standard stream <stdin>, must be one of"):
        with redirect("stdin", str(tmp_path / "in")):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("where", "error"), [("gone/out", FileNotFoundError), (".", IsADirectoryError)])
def test_a_file_that_cannot_be_opened(tmp_path, where, error, capfd):
    """Nothing is moved."""
    with pytest.raises(error), redirect_stdout(str(tmp_path / where)):
        pass
    print("here")
    os.write(1, b"there\n")
    assert sorted(capfd.readouterr().out.splitlines()) == ["here", "there"]


@pytest.mark.parametrize(
    "replacement", [None, io.StringIO(), object(), "closed"], ids=["none", "text", "object", "closed"]
)
def test_a_stream_that_is_not_the_descriptor(tmp_path, monkeypatch, replacement):
    """Captured, missing, closed or no stream at all: the descriptor and `print` both reach the file."""
    if replacement == "closed":
        replacement = io.StringIO()
        replacement.close()
    monkeypatch.setattr("sys.stdout", replacement)
    with redirect_stdout(str(tmp_path / "out")):
        print("print é \udcff")
        os.write(1, b"descriptor\n")
    assert sys.stdout is replacement
    assert (tmp_path / "out").read_text() == "print é \\udcff\ndescriptor\n"


def test_what_pytest_captures(tmp_path, capfd):
    """Its capture gets what is printed outside of the block, and only that."""
    print("before")
    with redirect_stderr(str(tmp_path / "err")), redirect_stdout(str(tmp_path / "out")):
        print("out")
        print("err", file=sys.stderr)
    print("after")
    assert lines(tmp_path / "out") + lines(tmp_path / "err") == ["out", "err"]
    assert capfd.readouterr() == ("before\nafter\n", "")


def test_a_descriptor_that_is_closed(script, tmp_path):
    """It is closed again afterwards, and no other one is harmed."""
    script("""
        os.close(1); os.close(2); sys.stdout = sys.stderr = None
        with redirect_stdout("out"):
            try:
                os.write(2, b"nowhere")
            except OSError:
                pass
        assert os.path.getsize("out") == 0
        with redirect_stdout("out"), redirect_stderr("err"):
            print("print"); os.write(1, b"descriptor\\n"); os.write(2, b"error\\n")
        os._exit(int(os.path.exists("/proc/self/fd/1") or os.path.exists("/proc/self/fd/2")))
    """)
    assert (lines(tmp_path / "out"), lines(tmp_path / "err")) == (["descriptor", "print"], ["error"])


@pytest.mark.parametrize("first", ["", 'sys.stdout = open(1, "w", closefd=False)'])
def test_a_stream_that_the_body_replaced(script, tmp_path, first):
    """What went to the one before is in the file; the replacement stays."""
    out, _ = script(f"""
        {first}
        with redirect_stdout("out"):
            before = sys.stdout
            print("kept", end="")
            sys.stdout = io.StringIO()
        print(type(sys.stdout).__name__, file=before)
    """)
    assert ((tmp_path / "out").read_text(), out) == ("kept", "StringIO\n")


def test_the_stream_that_a_capture_hides(script, tmp_path):
    """`sys.__stdout__` writes to the descriptor, and is flushed like it."""
    out, _ = script("""
        sys.stdout = io.StringIO()
        print("before", file=sys.__stdout__)
        with redirect_stdout("out"):
            print("in", file=sys.__stdout__)
        print("after", file=sys.__stdout__)
    """)
    assert ((tmp_path / "out").read_text(), out) == ("in\n", "before\nafter\n")


def test_a_full_disk_is_an_error(script):
    """What could not be written is not lost in silence, and the stream is back."""
    _, err = script("""
        try:
            with redirect_stdout("/dev/full"):
                print("lost")
        except OSError as error:
            print(type(error).__name__, file=sys.stderr)
        os.write(1, b"back\\n")
        os._exit(0)
    """)
    assert err == "OSError\n"
