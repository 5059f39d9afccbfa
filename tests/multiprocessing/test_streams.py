"""What a launcher shows of its ranks' output, and what it copies aside."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from machine import late

from pytest_elastic.multiprocessing import (
    DefaultLogsSpecs,
    Std,
)


def test_teed_lines(launch, result_of, monkeypatch):
    """Header and line, on the streams of the construction; the file has the line alone."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    prefixes = {0: "first ", 1: ""}
    context = launch(lambda rank: print("hello", rank) or print("oops", rank, file=sys.stderr), tee=Std.ALL,
                     log_line_prefixes=prefixes)  # fmt: skip
    monkeypatch.undo()
    result = result_of(context)
    assert sorted(out.getvalue().splitlines()) == ["[trainer2]:hello 2", "first hello 0", "hello 1"]
    assert sorted(err.getvalue().splitlines()) == ["[trainer2]:oops 2", "first oops 0", "oops 1"]
    assert Path(result.stdouts[2]).read_text() == "hello 2\n"


def test_only_what_is_teed(launch, result_of, monkeypatch):
    """By rank and by stream."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    context = launch(
        "sh", args=dict.fromkeys(range(3), ("-c", "echo o; echo e >&2")), tee={0: Std.OUT, 1: Std.ERR}
    )
    result_of(context)
    assert (out.getvalue(), err.getvalue()) == ("[trainer0]:o\n", "[trainer1]:e\n")


def test_filters(launch, result_of):
    """Lines of teed ranks with any of the texts, all ranks in one file, complete and closed at the end."""

    def speak(rank):
        for word in ("alpha", "beta", "gamma"):
            print(word, rank)
            print(word.upper(), rank, file=sys.stderr)

    named = {"duplicate_stdout_filters": ["alpha", "gam"], "duplicate_stderr_filters": ["BETA"]}
    context = launch(speak, tee={0: Std.ALL, 2: Std.ALL}, log_line_prefixes={2: "two:"}, **named)
    assert os.path.exists(context.filtered_stdout.name)
    result_of(context)
    assert context.filtered_stdout.closed
    assert context.filtered_stderr.closed
    assert sorted(Path(context.filtered_stdout.name).read_text().splitlines(True)) == [
        "[trainer0]:alpha 0\n", "[trainer0]:gamma 0\n", "two:alpha 2\n", "two:gamma 2\n",
    ]  # fmt: skip
    assert sorted(Path(context.filtered_stderr.name).read_text().splitlines(True)) == [
        "[trainer0]:BETA 0\n",
        "two:BETA 2\n",
    ]


def test_nowhere(launch, result_of, capfd):
    """`os.devnull` as the directory: nothing is written, filters or not."""
    specs = DefaultLogsSpecs(os.devnull, redirects=Std.ALL, tee=Std.ALL)
    context = launch(lambda rank: os.environ["TORCHELASTIC_ERROR_FILE"], logs_specs=specs,
                     duplicate_stdout_filters=["x"])  # fmt: skip
    assert result_of(context).return_values == {0: "", 1: "", 2: ""}
    assert context.filtered_stdout is None


def test_ranks_that_are_not_shown(launch, result_of, tmp_path, capfd):
    """What they do not redirect is lost, what is redirected is in its file."""
    specs = DefaultLogsSpecs(tmp_path / "specs", redirects={0: Std.ERR}, local_ranks_filter={1})
    context = launch("sh", args=dict.fromkeys(range(2), ("-c", "echo $RANK; echo err $RANK >&2")),
                     envs={0: {"RANK": "0"}, 1: {"RANK": "1"}}, logs_specs=specs)  # fmt: skip
    result = result_of(context)
    assert capfd.readouterr() == ("1\n", "err 1\n")
    assert Path(result.stderrs[0]).read_text() == "err 0\n"


def test_a_flood_and_a_slow_destination(launch, result_of, monkeypatch):
    """Ranks never block; every complete line comes out once, SIGKILL in the middle or not."""

    class Slow(io.StringIO):
        def write(self, text):
            time.sleep(0.02)
            return super().write(text)

    def flood(rank):
        for number in range(100_000):
            print(number)
        os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else None

    slow = Slow()
    monkeypatch.setattr(sys, "stdout", slow)
    context = launch(flood, tee=Std.OUT)
    monkeypatch.undo()
    result = result_of(context, period=15)
    assert list(result.failures) == [1]
    lines = slow.getvalue().splitlines()
    for rank in range(3):
        header = f"[trainer{rank}]:"
        mine = [line for line in lines if line.startswith(header)]
        assert mine == [f"{header}{number}" for number in range(100_000)]


def test_one_long_line(launch, result_of, monkeypatch):
    """40 MB without a newline arrive as one."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    context = launch(lambda rank: sys.stdout.write("x" * (40 << 20)) and None, 1, tee=Std.OUT)
    monkeypatch.undo()
    result_of(context)
    assert out.getvalue() == "[trainer0]:" + "x" * (40 << 20) + "\n"


def test_a_log_is_truncated_and_replaced(launch, result_of, monkeypatch):
    """Later lines come out, whole and once."""

    def write(rank):
        name = os.readlink("/proc/self/fd/1")
        print("first")
        time.sleep(0.2)
        os.truncate(name, 0)
        time.sleep(0.2)
        print("second")
        time.sleep(0.2)
        os.rename(name, name + ".1")
        Path(name).write_text("third\n")

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    context = launch(write, 1, tee=Std.OUT)
    monkeypatch.undo()
    result_of(context)
    assert out.getvalue() == "[trainer0]:first\n[trainer0]:second\n[trainer0]:third\n"


@pytest.mark.parametrize("kind", ["failing", "closed"])
def test_a_destination_that_fails(kind, launch, result_of, monkeypatch, caplog, tmp_path):
    """No error comes out of `wait`; later lines arrive; the failure is logged once."""

    class Failing(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            (tmp_path / f"write{self.writes}").touch()
            if self.writes == 2:
                raise OSError(28, "No space left on device")
            return super().write(text)

    def speak(rank):
        for number in range(4):
            print(number)
            while kind == "failing" and not (tmp_path / f"write{number + 1}").exists():
                time.sleep(0.001)

    out = Failing()
    monkeypatch.setattr(sys, "stdout", out)
    context = launch(speak, 1, tee=Std.OUT)
    monkeypatch.undo()
    if kind == "closed":
        out.close()
    assert not result_of(context).is_failed()
    if kind == "failing":
        assert out.getvalue().endswith("[trainer0]:3\n")
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    else:
        assert caplog.records == []


def test_a_bar_that_never_answers(launch, result_of, monkeypatch):
    """Lines arrive, late; the end is bounded."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    bar = {"trigger_clear": threading.Event(), "cleared": threading.Event()}
    context = launch(lambda rank: print("line", rank), tee=Std.OUT, progbar_events=bar)
    monkeypatch.undo()
    begin = time.monotonic()
    result_of(context)
    assert time.monotonic() - begin < late(10)
    assert sorted(out.getvalue().splitlines()) == [f"[trainer{rank}]:line {rank}" for rank in range(3)]


def test_the_last_line_before_the_end(launch, result_of, monkeypatch, rounds):
    """A hundred ranks write one line and are killed: none is lost, none torn."""
    times = rounds(1, 10)
    out = io.StringIO()

    def last(rank):
        print("last line of", rank)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(times):
        monkeypatch.setattr(sys, "stdout", out)
        context = launch(last, 100, tee=Std.OUT)
        monkeypatch.undo()
        assert len(result_of(context, period=15).failures) == 100
    lines = out.getvalue().splitlines()
    assert {line: lines.count(line) for line in set(lines)} == {
        f"[trainer{rank}]:last line of {rank}": times for rank in range(100)
    }
