"""What the launcher knows about ranks that failed, and how it says so."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from datetime import datetime

import pytest

from pytest_elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

NO_TRACEBACK = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"


@pytest.fixture
def failed(tmp_path):
    """A failure whose error file holds this: `failed({...}, exitcode=1)`; text is written as it is."""

    def make(data, exitcode=1, observe=False):
        path = tmp_path / "error.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return (ProcessFailure.observed if observe else ProcessFailure)(0, 99, exitcode, str(path))

    return make


def structured(message="ValueError: boom", timestamp="10", **extra):
    return {"message": {"message": message, "extraInfo": {"timestamp": timestamp, **extra}}}


def test_names_and_what_they_import():
    """Three modules, their public names, and no big library behind them."""
    code = """if True:
        import sys
        from pytest_elastic.multiprocessing import errors, redirects, tail_log
        print(sorted(errors.__all__), sorted(redirects.__all__), sorted(tail_log.__all__), tail_log.logger.name)
        print([name for name in ("torch", "pytest", "hypothesis") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "['ChildFailedError', 'ErrorHandler', 'ProcessFailure', 'get_error_handler', 'record'] "
        "['redirect', 'redirect_stderr', 'redirect_stdout'] ['TailLog', 'tail_logfile'] "
        "pytest_elastic.multiprocessing.tail_log",
        "[]",
    ]


def test_fields(failed, tmp_path):
    """What was given, what the file says, and a mark for stopped ranks."""
    failure = failed({"message": "m", "timestamp": 10})
    assert failure.__dict__ == {
        "local_rank": 0,
        "pid": 99,
        "exitcode": 1,
        "error_file": str(tmp_path / "error.json"),
        "error_file_data": {"message": "m", "timestamp": 10},
        "message": "m",
        "timestamp": 10,
        "stopped": False,
    }
    assert failure == failed({"message": "m", "timestamp": 10})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"message": "m", "timestamp": 10}, ("m", 10)),
        ({"message": "m", "timestamp": "10"}, ("m", 10)),
        ({"message": "m"}, ("m", 0)),
        (structured(), (structured()["message"], 10)),
    ],
)
def test_message_and_timestamp(failed, data, expected):
    """A text, or a structure; the timestamp is an int."""
    failure = failed(data)
    assert (failure.message, failure.timestamp, type(failure.timestamp)) == (*expected, int)


@pytest.mark.parametrize("kind", ["missing", "empty", "directory"])
def test_no_file(tmp_path, kind):
    """Then nothing is known but when it was seen."""
    path = {"missing": str(tmp_path / "none"), "empty": "", "directory": str(tmp_path)}[kind]
    before = int(time.time())
    failure = ProcessFailure(0, 99, -9, path)
    assert (failure.error_file, failure.error_file_data) == ("<N/A>", {"message": "<NONE>"})
    assert before <= failure.timestamp <= time.time()
    assert type(failure.timestamp) is int


DAMAGED = [
    ("", json.JSONDecodeError),
    ('{"message": {"mess', json.JSONDecodeError),
    ("{}", KeyError),
    ("[1]", ValueError),
    ('{"message": "m", "timestamp": "soon"}', ValueError),
    ('{"message": "m", "timestamp": null}', ValueError),
    ('{"message": "m", "timestamp": Infinity}', ValueError),
    ('{"message": "m", "timestamp": 1e300}', ValueError),
    ('{"message": {"message": "m"}}', KeyError),
    ('{"message": {"extraInfo": {}}}', KeyError),
    ('{"message": {"extraInfo": 1}}', ValueError),
    ('{"message": 1}', ValueError),
]


@pytest.mark.parametrize(("text", "error"), DAMAGED)
def test_a_damaged_file_raises(failed, text, error):
    """By the kind of damage."""
    with pytest.raises(error):
        failed(text)


@pytest.mark.parametrize("text", [text for text, _ in DAMAGED] + ["[" * 100_000])
def test_observed_is_not_raised(failed, text, tmp_path):
    """The failure is reported by its exit code, and says that the file is damaged."""
    failure = failed(text, exitcode=-9, observe=True)
    assert (failure.exitcode, failure.error_file) == (-9, "<N/A>")
    assert failure.message.startswith("Signal 9 (SIGKILL) received by PID 99\n")
    assert f"{tmp_path / 'error.json'} is damaged" in failure.message


def test_observed_without_damage(failed):
    """The same as the constructor."""
    assert failed(structured(), observe=True) == failed(structured())


@pytest.mark.parametrize(
    ("exitcode", "name"), [(-11, "SIGSEGV"), (-9, "SIGKILL"), (-99, "<N/A>"), (0, "<N/A>"), (9, "<N/A>")]
)
def test_signal_names(exitcode, name):
    """Only for exit codes of signals that are known."""
    assert ProcessFailure(0, 99, exitcode, "").signal_name() == name


@pytest.mark.parametrize("data", [None, {"message": ""}])
def test_a_message_for_a_signal(failed, data):
    """Where the file has no text, or there is none."""
    failure = failed(data, exitcode=-11) if data else ProcessFailure(0, 99, -11, "")
    assert failure.message == "Signal 11 (SIGSEGV) received by PID 99"
    assert "errorTraits" not in failure.error_file_data


def test_a_message_for_an_exit_code():
    """And traits, which no later failure inherits."""
    failure = ProcessFailure(0, 99, 138, "")
    assert failure.message == NO_TRACEBACK
    assert failure.error_file_data["errorTraits"] == {
        "category": "system_terminated_error",
        "retryability": "False",
    }
    assert ProcessFailure(0, 99, -9, "").error_file_data == {"message": "<NONE>"}


def test_local_time(failed):
    """Day and time, an underscore between them."""
    shown = failed({"message": "m", "timestamp": 10}).timestamp_isoformat()
    assert datetime.strptime(shown, "%Y-%m-%d_%H:%M:%S").timestamp() == 10


def failure(rank=0, timestamp=10, exitcode=1, message="boom", stopped=False):
    made = ProcessFailure(rank, 99, exitcode, "", stopped=stopped)
    made.timestamp, made.message = timestamp, message
    return made


def test_pickle():
    """Failures and the error keep their fields."""
    error = ChildFailedError("trainer", {1: failure(1, stopped=True)})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (ChildFailedError, str(error), error.__dict__)


def test_nothing_failed():
    """Then there is no such error."""
    with pytest.raises(AssertionError):
        ChildFailedError("trainer", {})


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: failure(0, 20), 1: failure(1, 10)}, 1),
        ({3: failure(3, 10), 1: failure(1, 10)}, 3),
        ({0: failure(0, 5, stopped=True), 1: failure(1, 10)}, 1),
        ({0: failure(0, 20, stopped=True), 1: failure(1, 10, stopped=True)}, 1),
    ],
    ids=["earliest", "ties by order", "never a stopped one", "unless all were"],
)
def test_the_first_failure(failures, first):
    """The root cause, with its rank."""
    assert ChildFailedError("trainer", failures).get_first_failure() == (first, failures[first])


def shown(error):
    """The lines of an error's text, without values that differ between machines and time zones."""
    lines = str(error).splitlines()
    return [line[:14] if line[:14].strip() in ("time      :", "host      :") else line for line in lines]


def test_the_text_of_one_failure():
    """Rules as wide as the longest line."""
    error = ChildFailedError("trainer", {0: failure(exitcode=-11, message="$boom ${x}")})
    width = len("  exitcode  : -11 (pid: 99)  (SIGSEGV)")
    assert shown(error) == [
        "",
        "=" * width,
        "trainer FAILED",
        "-" * width,
        "Failures:",
        "  <NO_OTHER_FAILURES>",
        "-" * width,
        "Root Cause (first observed failure):",
        "[0]:",
        "  time      : ",
        "  host      : ",
        "  rank      : 0 (local_rank: 0)",
        "  exitcode  : -11 (pid: 99)  (SIGSEGV)",
        "  error_file: <N/A>",
        "  traceback : $boom ${x}",
        "=" * width,
    ]


def test_the_root_cause_is_the_last_of_several():
    """Numbers are those of the order given; rules are at most 60 wide."""
    failures = {4: failure(0, 20, message="x" * 100), 5: failure(1, 10), 6: failure(2, 30)}
    text = ChildFailedError("trainer", failures).format_msg(boarder_delim="*", section_delim="~")
    lines = text.splitlines()
    assert (lines[1], lines[3]) == ("*" * 60, "~" * 60)
    assert [line for line in lines if line.startswith("[")] == ["[0]:", "[2]:", "[1]:"]
    assert [line for line in lines if line.startswith("  rank")] == [
        f"  rank      : {rank} (local_rank: {local})" for rank, local in ((4, 0), (6, 2), (5, 1))
    ]
    assert "  exitcode  : 1 (pid: 99)" in lines


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"message": "m", "extraInfo": {"py_callstack": "one\ntwo"}}, ["one", "  two"]),
        ({"message": "m\nn", "extraInfo": {}}, ["m", "  n"]),
        ({"extraInfo": {}}, ["<N/A>"]),
    ],
)
def test_a_structured_failure(message, expected):
    """Its call stack, else its message; later lines indented."""
    lines = str(ChildFailedError("trainer", {0: failure(message=message)})).splitlines()
    assert lines[-1 - len(expected) : -1] == [f"  traceback : {expected[0]}", *expected[1:]]
