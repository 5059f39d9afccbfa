"""Lines of many growing files come out at one place: whole, once, soon, and whatever goes wrong is named."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from machine import late

from pytest_elastic.multiprocessing import _watch, tail_log
from pytest_elastic.multiprocessing.tail_log import TailLog, tail_logfile

LOGGER = "pytest_elastic.multiprocessing.tail_log.logger"
PATIENCE = 20.0


class Collector:
    """A `dst` that keeps what comes, for tests that wait for it."""

    closed = False

    def __init__(self):
        self.batches: list[str] = []
        self._came = threading.Condition()

    def write(self, text):
        with self._came:
            self.batches.append(text)
            self._came.notify_all()

    @property
    def text(self):
        return "".join(self.batches)

    def wait_for(self, text):
        with self._came:
            assert self._came.wait_for(lambda: text in self.text, PATIENCE), self.text


@pytest.fixture
def dst():
    return Collector()


@pytest.fixture
def tail(dst):
    """Start a tail to `dst`, which the test's end stops."""
    made = []

    def start(files, to=dst, **options):
        made.append(TailLog("writer", files, to, **options).start())
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stdout.log"


@pytest.fixture
def gate():
    """Holds somebody until it is set, at the latest by the test's end."""
    event = threading.Event()
    yield event
    event.set()


def append(path, text):
    with open(path, "ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def count_up(path, most, pause):
    with open(path, "w") as file:
        for number in range(most):
            print(number, file=file, flush=True)
            time.sleep(pause)


def numbers_by_header(text):
    found = {}
    for line in text.splitlines():
        header, number = line.split(":")
        found.setdefault(header, []).append(int(number))
    return found


# The published tests of the API.


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_many_writers(tmp_path, tail, kind):
    """32 files of 1,000 lines, which appear after the start: every line, once, in order, with its header."""
    files = {rank: str(tmp_path / f"{rank}_stdout.log") for rank in range(32)}
    with io.StringIO() if kind == "memory" else open(tmp_path / "tailed", "w+", buffering=1) as to:
        running = tail(files, to, interval_sec=0.0001)
        with ThreadPoolExecutor(32) as pool:
            for rank, file in files.items():
                pool.submit(count_up, file, 1000, 0.00001 * rank)
        assert not running.stopped()
        running.stop()
        to.seek(0)
        expected = {f"[writer{rank}]": list(range(1000)) for rank in files}
        assert (numbers_by_header(to.read()), running.stopped()) == (expected, True)


def test_prefixes(tmp_path, tail, dst):
    """A rank without one keeps the default header; an empty one is one too."""
    files = {rank: str(tmp_path / str(rank)) for rank in range(3)}
    for rank, file in files.items():
        append(file, f"{rank}\n")
    tail(files, log_line_prefixes={0: "[worker0][0]:", 1: ""}).stop()
    assert sorted(dst.text.splitlines()) == ["1", "[worker0][0]:0", "[writer2]:2"]


def test_a_filter(path, tail, dst):
    """Only true lines are written."""
    append(path, "".join(f"{number}\n" for number in range(20)))
    tail({0: str(path)}, log_line_filter=lambda line: "2" in line).stop()
    assert dst.text == "[writer0]:2\n[writer0]:12\n"


@pytest.mark.parametrize(
    ("files", "to"), [({}, sys.stdout), ({0: "a.log"}, None)], ids=["no files", "no dst"]
)
def test_nothing_to_do(files, to):
    """No thread is started, and it stops like any other."""
    before = threading.enumerate()
    running = TailLog("writer", files, to).start()
    assert (threading.enumerate(), running.stopped()) == (before, False)
    running.stop()
    assert running.stopped()


def test_a_file_that_never_comes(tail):
    """The end does not wait out the interval, and nothing is logged."""
    with mock.patch(LOGGER) as logger:
        running = tail({0: "never/comes.log"}, interval_sec=3600)
        running.stop()
    assert (running._threadpool._shutdown, logger.mock_calls) == (True, [])


def test_a_directory_is_logged_once(tmp_path, path, tail, dst):
    """At the end, with tail, rank and class of error; the other file goes on."""
    running = tail({3: str(tmp_path), 4: str(path)})
    with mock.patch(LOGGER) as logger:
        append(path, "a\n")
        dst.wait_for("[writer4]:a\n")
        assert logger.mock_calls == []
        running.stop()
        running.stop()
    logger.exception.assert_called_once()
    text, *values = logger.exception.call_args.args
    assert text % tuple(values) == "error in the tail of writer3: IsADirectoryError"


# Lines.


def test_a_half_line_waits_for_its_end_or_for_stop(path, tail, dst):
    """It never comes out in pieces."""
    running = tail({0: str(path)})
    append(path, "whole\nha")
    dst.wait_for("[writer0]:whole\n")
    append(path, "lf\nlast")
    dst.wait_for("[writer0]:half\n")
    running.stop()
    assert dst.text == "[writer0]:whole\n[writer0]:half\n[writer0]:last\n"


def test_two_tails_to_one_stream(tmp_path):
    """Their lines never tear: each write is a batch of whole lines."""
    with open(tmp_path / "both", "w+") as to:
        tails = [TailLog(name, {0: str(tmp_path / name)}, to).start() for name in "ab"]
        with ThreadPoolExecutor(2) as pool:
            for name in "ab":
                pool.submit(count_up, tmp_path / name, 5000, 0)
        for each in tails:
            each.stop()
        to.seek(0)
        assert numbers_by_header(to.read()) == {"[a0]": list(range(5000)), "[b0]": list(range(5000))}


def test_written_in_halves(path, tail, dst):
    """200 lines whose halves are written apart: none torn."""
    running = tail({0: str(path)})
    for number in range(200):
        append(path, f"begin{number}-")
        append(path, f"end{number}\n")
    running.stop()
    assert dst.text == "".join(f"[writer0]:begin{number}-end{number}\n" for number in range(200))


def test_bytes_that_are_no_text(path, tail, dst):
    """They become U+FFFD; a character in two writes is whole."""
    running = tail({0: str(path)})
    append(path, b"\xff\n\xc3")
    dst.wait_for("[writer0]:�\n")
    append(path, b"\xa9\n")
    dst.wait_for("[writer0]:é\n")
    running.stop()


# Files.


@pytest.mark.parametrize("notified", [True, False])
def test_late_truncated_and_rotated(path, tail, dst, notified, monkeypatch):
    """All later lines, once and whole, told by the kernel or looked for."""
    if not notified:
        monkeypatch.setattr(_watch, "_open_inotify", lambda: None)
    running = tail({0: str(path)}, interval_sec=0.001 if not notified else 3600)
    append(path, "1\n22222222\n")
    dst.wait_for("[writer0]:22222222\n")
    path.write_text("3\n")
    dst.wait_for("[writer0]:3\n")
    path.rename(path.with_suffix(".1"))
    append(path.with_suffix(".1"), "4\n")
    dst.wait_for("[writer0]:4\n")
    append(path, "5\n")
    dst.wait_for("[writer0]:5\n")
    path.unlink()
    append(path, "6\n")
    running.stop()
    assert [line[10:] for line in dst.text.splitlines()] == ["1", "22222222", *"3456"]


# The end.


def test_the_last_line_is_never_lost(tmp_path):
    """200 times a writer's last line races `stop`: it was written before, so it comes out."""
    lost = []
    for trial in range(200):
        path = tmp_path / str(trial)
        to = io.StringIO()
        running = TailLog("w", {0: str(path)}, to).start()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(append, path, "last\n")
        running.stop()
        if to.getvalue() != "[w0]:last\n":
            lost.append(trial)
    assert lost == []


def test_a_flood_that_goes_on_does_not_hold_the_end(path):
    """What the file held comes out; this writer answers each batch with a greater one."""
    seen = []

    class Flood:
        def write(self, text):
            seen.append(text)
            if len(seen) < 20:
                append(path, "more\n" * 400_000)

    append(path, "line\n" * 400_000)
    tail_one(path, Flood())
    assert "".join(seen) == "h:line\n" * 400_000


def test_started_twice_is_started_once(path, tail, dst):
    """Lines do not double."""
    append(path, "a\n")
    running = tail({0: str(path)})
    assert running.start() is running
    running.stop()
    assert dst.text == "[writer0]:a\n"


def test_stopped_before_it_was_started(path, dst):
    """Then it does not start any more."""
    never = TailLog("writer", {0: str(path)}, dst)
    never.stop()
    assert never.stopped()
    with pytest.raises(RuntimeError, match="stopped"):
        never.start()


def test_stopped_twice_and_by_several(path, tail, dst):
    """All return, when the last line is out."""
    append(path, "a\n")
    running = tail({0: str(path)})
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: (running.stop(), dst.text)[1], range(4)))
    assert seen == ["[writer0]:a\n"] * 4


def test_no_thread_left_for_it(path, dst, monkeypatch):
    """Nothing stays open, and the tail can be stopped."""
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start")))
    never = TailLog("writer", {0: str(path)}, dst)
    with pytest.raises(RuntimeError, match="can't start"):
        never.start()
    assert os.listdir("/proc/self/fd") == before
    never.stop()


def test_one_thread(tmp_path, tail):
    """Whatever the number of files; a daemon, which holds no interpreter."""
    before = set(threading.enumerate())
    tail({rank: str(tmp_path / str(rank)) for rank in range(32)})
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_the_tail_alone(path, tail, dst):
    """A child that was forked meanwhile can end, and the tail goes on."""
    running = tail({0: str(path)})
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    append(path, "a\n")
    dst.wait_for("[writer0]:a\n")
    running.stop()


# What goes wrong.


def messages(logger):
    return [call.args[0] % call.args[1:] for call in logger.exception.call_args_list]


def test_a_filter_that_raises_is_logged_once(path, tail, dst):
    """Its lines are dropped, the others pass."""
    append(path, "0\nx\n1\n")
    with mock.patch(LOGGER) as logger:
        tail({0: str(path)}, log_line_filter=lambda line: 1 // int(line)).stop()
    assert dst.text == "[writer0]:1\n"
    assert messages(logger) == ["error in the tail of the filter of writer0: ZeroDivisionError"]


def test_a_write_that_fails_loses_its_batch(path, tail, dst):
    """Later lines arrive, and one error is logged."""
    dst.write = mock.Mock(side_effect=[OSError(28, "full"), OSError(28, "full"), None])
    running = tail({0: str(path)})
    with mock.patch(LOGGER) as logger:
        for number in range(3):
            append(path, f"{number}\n")
            deadline = time.monotonic() + PATIENCE
            while dst.write.call_count == number:
                assert time.monotonic() < deadline
        running.stop()
    assert [call.args[0] for call in dst.write.call_args_list] == [f"[writer0]:{n}\n" for n in range(3)]
    assert messages(logger) == ["error in the tail of what writer is written to: OSError"]


def test_a_closed_stream_ends_the_tail_quietly(path, tail):
    """Its thread ends, nothing is logged."""
    to = io.StringIO()
    before = set(threading.enumerate())
    running = tail({0: str(path)}, to)
    (thread,) = set(threading.enumerate()) - before
    to.close()
    append(path, "a\n")
    thread.join(PATIENCE)
    assert not thread.is_alive()
    with mock.patch(LOGGER) as logger:
        running.stop()
    assert logger.mock_calls == []


def test_a_slow_stream_does_not_hold_the_writer(path, tail):
    """The writer's file takes the flood; each line comes out once when `stop` returns."""
    seen = []

    class Slow:
        def write(self, text):
            time.sleep(0.001)
            seen.append(text)

    running = tail({0: str(path)}, Slow())
    with open(path, "w") as file:
        file.writelines(f"{number}\n" for number in range(300_000))
    running.stop()
    assert numbers_by_header("".join(seen)) == {"[writer0]": list(range(300_000))}


def test_a_stream_that_takes_nothing_is_given_up(path, tail, dst, monkeypatch, gate):
    """`stop` returns though a write does not, one error is logged, and nothing is written afterwards."""
    monkeypatch.setattr(tail_log, "_STUCK", 0.05)
    before = set(threading.enumerate())
    dst.write = mock.Mock(side_effect=lambda text: gate.wait(PATIENCE))
    running = tail({0: str(path)})
    (thread,) = set(threading.enumerate()) - before
    append(path, "a\n")
    while not dst.write.called:
        time.sleep(0.001)
    append(path, "b\n")
    with mock.patch(LOGGER) as logger:
        running.stop()
    assert messages(logger) == ["error in the tail of what writer is written to: TimeoutError"]
    gate.set()
    thread.join(PATIENCE)
    assert dst.write.mock_calls == [mock.call("[writer0]:a\n")]


def test_the_thread_has_ended_when_stop_returns(tmp_path):
    """Not a moment later."""
    for turn in range(100):
        path = tmp_path / str(turn)
        path.write_text("line\n")
        tail = TailLog(f"turn{turn}", {0: str(path)}, io.StringIO()).start()
        tail.stop()
        assert f"TailLog_turn{turn}" not in [thread.name for thread in threading.enumerate()]


# Dialects and bad input.


@pytest.mark.parametrize("events", [None, {"trigger_clear": threading.Event(), "cleared": threading.Event()}])
def test_the_page_s_dialect(path, tail, dst, events):
    """A number in fourth place is the interval, what follows it the events of the bar."""
    append(path, "a\n")
    if events:
        events["cleared"].set()
    TailLog("writer", {0: str(path)}, dst, 0.05, events).start().stop()
    assert dst.text == "[writer0]:a\n"


@pytest.mark.parametrize("interval", [-1, float("nan")])
def test_an_interval_that_is_none(interval):
    """Negative or NaN is refused before anything runs."""
    with pytest.raises(ValueError, match="interval_sec"):
        TailLog("writer", {}, None, interval_sec=interval)


def test_events_that_are_missing():
    """They are named at once."""
    with pytest.raises(ValueError, match="needs cleared"):
        TailLog("writer", {}, sys.stdout, progbar_events={"trigger_clear": threading.Event()})


@pytest.mark.parametrize("event", [threading.Event, multiprocessing.Event])
def test_a_bar_makes_room(path, tail, dst, event):
    """It is asked, answers, and sees when the lines are out."""
    events = {"trigger_clear": event(), "cleared": event()}

    def bar():
        assert events["trigger_clear"].wait(PATIENCE)
        before = dst.text
        events["cleared"].set()
        dst.wait_for("a\n")
        return before

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(bar)
        running = tail({0: str(path)}, progbar_events=events)
        append(path, "a\n")
        assert answer.result() == ""
        running.stop()
    assert not events["trigger_clear"].is_set()


def test_a_bar_that_never_answers_does_not_hold_stop(path, tail, dst):
    """The last lines together wait for less than what one batch may wait before."""
    cleared = mock.Mock(spec=threading.Event())
    cleared.wait.return_value = False
    running = tail({0: str(path)}, progbar_events={"trigger_clear": threading.Event(), "cleared": cleared})
    append(path, "half")
    running.stop()
    assert dst.text == "[writer0]:half\n"
    (waited,) = cleared.wait.call_args_list
    assert waited.args[0] < 1.0


def test_the_example_with_tqdm():
    """All lines are whole, and the bar comes to its end."""
    example = Path(__file__).parents[2] / "examples" / "tqdm_and_logs.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=60, check=True)
    losses = [f"[rank{rank}]:loss {1 / (step + 1)}" for rank in range(2) for step in range(0, 40, 10)]
    assert sorted(done.stdout.splitlines()) == sorted(losses)
    assert "40/40" in done.stderr


# `tail_logfile`.


def tail_one(path, dst, *more, finished=True, **options):
    event = threading.Event()
    if finished:
        event.set()
    tail_logfile("h:", str(path), dst, event, 0.001, *more, **options)


def test_until_finished_and_at_the_end(path, dst):
    """In the calling thread; a file that is late is waited for."""
    finished = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(tail_logfile, "h:", str(path), dst, finished, 0.001)
        append(path, "a\nb")
        dst.wait_for("h:a\n")
        finished.set()
        done.result(PATIENCE)
    assert dst.text == "h:a\nh:b\n"


def test_without_a_filter_all_lines_pass(path, dst):
    """And with one, the true ones."""
    append(path, "1\n2\n")
    tail_one(path, dst)
    tail_one(path, dst, lambda line: line == "2\n")
    assert dst.text == "h:1\nh:2\nh:2\n"


@pytest.mark.parametrize("with_events", [False, True])
def test_the_page_s_lock(path, dst, with_events):
    """A lock in sixth place, and the events of the bar after it."""
    append(path, "a\n")
    lock = mock.MagicMock(spec=threading.Lock())
    events = {"trigger_clear": threading.Event(), "cleared": threading.Event()}
    events["cleared"].set()
    tail_one(path, dst, lock, *([events] if with_events else []))
    assert (dst.text, lock.__enter__.call_count) == ("h:a\n", 1)


def test_what_goes_wrong_is_raised(tmp_path, path, dst):
    """The file's error at once, those of `dst` and of the filter at the end."""
    with pytest.raises(IsADirectoryError):
        tail_one(tmp_path, dst, finished=False)
    append(path, "a\n")
    with pytest.raises(ZeroDivisionError):
        tail_one(path, dst, lambda line: 1 / 0)
    dst.write = mock.Mock(side_effect=OSError("full"))
    with pytest.raises(OSError, match="full"):
        tail_one(path, dst)


# Costs.


def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Sizes:
    """A `dst` that keeps sizes only."""

    def __init__(self):
        self.lines = self.characters = 0

    def write(self, text):
        self.lines += text.count("\n")
        self.characters += len(text)


@pytest.mark.parametrize(
    ("piece", "times", "lines", "most"),
    [(b"x" * 1_000_000, 40, 1, 100e6), (b"x" * 99 + b"\n", 3_000_000, 3_000_000, 20e6)],
    ids=["f29 one line of 40 MB", "f28 a flood of 300 MB"],
)
def test_memory(path, tail, piece, times, lines, most):
    """What one line needs twice; what a flood needs does not grow with it."""
    sizes = Sizes()
    Path("/proc/self/clear_refs").write_text("5")  # The kernel's high-water mark begins again.
    before = memory("VmRSS")
    running = tail({0: str(path)}, sizes)
    with open(path, "wb", buffering=1 << 20) as file:
        for _ in range(times):
            file.write(piece)
    running.stop()
    assert sizes.lines == lines
    assert sizes.characters >= len(piece) * times
    assert memory("VmHWM") - before <= most


def test_idle_costs_nothing(tmp_path, tail):
    """32 files that nobody writes: their thread does not wake up."""
    files = {rank: str(tmp_path / str(rank)) for rank in range(32)}
    for file in files.values():
        append(file, "a\n")
    to = Collector()
    before = set(threading.enumerate())
    tail(files, to, interval_sec=0.001)
    (thread,) = set(threading.enumerate()) - before
    for rank in files:
        to.wait_for(f"[writer{rank}]:a\n")

    def switches():
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return int(status.split("voluntary_ctxt_switches:")[1].split()[0])

    # It may take a while to fall asleep on a busy machine; awake once per interval it never would.
    deadline = time.monotonic() + PATIENCE
    seen = -1
    while (now := switches()) != seen:
        assert time.monotonic() < deadline
        seen = now
        time.sleep(0.1)


def test_a_line_takes_milliseconds(path, tail, dst):
    """With an interval of an hour: the kernel tells.  (The benchmark has the number, which is far lower.)"""
    tail({0: str(path)}, interval_sec=3600)
    delays = []
    with open(path, "w", buffering=1) as file:
        for number in range(50):
            time.sleep(0.002)
            begin = time.perf_counter()
            print(number, file=file)
            dst.wait_for(f"[writer0]:{number}\n")
            delays.append(time.perf_counter() - begin)
    assert sorted(delays)[25] <= late(0.02)
