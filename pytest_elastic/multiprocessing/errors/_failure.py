"""Failures of ranks: `ProcessFailure` of one rank, `ChildFailedError` of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import ElasticError
from pytest_elastic.pristine import json, os, socket
from pytest_elastic.wording import signal_name

NOT_AVAILABLE = "<N/A>"
_NO_TRACEBACK = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
_WIDEST_RULE = 60


@dataclass
class ProcessFailure:
    """The failure of a rank; the constructor reads the error file.

    >>> ProcessFailure(local_rank=0, pid=4711, exitcode=-11, error_file="").message
    'Signal 11 (SIGSEGV) received by PID 4711'

    Attributes:
        local_rank: the rank.
        pid: of its process.
        exitcode: as the process ended, -n for signal n.
        error_file: where the rank recorded its error; `"<N/A>"` if it did not.
        error_file_data: what it recorded; `{"message": "<NONE>"}` if nothing.
        message: a text, or the `message` object of the file; derived from the exit code if there is none.
        timestamp: whole seconds since the epoch: of the record, else of this construction.
        stopped: the rank was stopped by its launcher, it did not fail by itself.

    Raises:
        OSError: the error file is there but cannot be read.
        KeyError, ValueError: the error file is not in the format (`json.JSONDecodeError` is a `ValueError`).
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    error_file_data: dict[str, Any] = field(init=False)
    message: str | dict[str, Any] = field(init=False)
    timestamp: int = field(init=False)
    stopped: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if os.path.isfile(self.error_file):
            with open(self.error_file, encoding="utf-8") as file:
                self.error_file_data = json.load(file)
            self.message, self.timestamp = read_record(self.error_file_data)
        else:
            self.error_file = NOT_AVAILABLE
            self.error_file_data = {"message": "<NONE>"}
            self.message, self.timestamp = "", int(SYSTEM_CLOCK.time())
        if not self.message and self.exitcode < 0:
            self.message = f"Signal {-self.exitcode} ({self.signal_name()}) received by PID {self.pid}"
        elif not self.message:
            self.message = _NO_TRACEBACK
            self.error_file_data["errorTraits"] = {
                "category": "system_terminated_error",
                "retryability": "False",
            }

    @classmethod
    def observed(cls, local_rank: int, pid: int, exitcode: int, error_file: str) -> ProcessFailure:
        """The failure, whatever the error file is like: a damaged one is named in `message`, never raised."""
        try:
            return cls(local_rank, pid, exitcode, error_file)
        except Exception as damage:
            failure = cls(local_rank, pid, exitcode, "")
            why = f"{type(damage).__name__}: {damage}"
            failure.message = f"{failure.message}\nIts error file {error_file} is damaged ({why})"
            return failure

    def signal_name(self) -> str:
        """`"SIGSEGV"` and such, `"<N/A>"` where no known signal ended the process."""
        name = signal_name(-self.exitcode)
        return name if name.startswith("SIG") else NOT_AVAILABLE

    def timestamp_isoformat(self) -> str:
        """`YYYY-MM-DD_HH:MM:SS` in local time."""
        return datetime.fromtimestamp(self.timestamp).isoformat(sep="_")


class ChildFailedError(ElasticError):
    """Error of a run whose ranks failed; the text shows each failure, the root cause last.

    >>> failure = ProcessFailure(local_rank=1, pid=4711, exitcode=-9, error_file="")
    >>> ChildFailedError("trainer", {1: failure}).get_first_failure()[0]
    1

    Raise it from a function wrapped in `record` to hand the root cause's error file on to whoever started
    this process.

    Attributes:
        name: the run's.
        failures: by rank.
    """

    def __init__(self, name: str, failures: dict[int, ProcessFailure]) -> None:
        if not failures:
            raise AssertionError(f"{name}: an error about failed ranks needs at least one failure")
        self.name, self.failures = name, failures
        super().__init__(self.format_msg())

    def get_first_failure(self) -> tuple[int, ProcessFailure]:
        """The root cause: the earliest rank that failed by itself (the earliest stopped one if none did)."""
        return min(self.failures.items(), key=lambda item: (item[1].stopped, item[1].timestamp))

    def format_msg(self, boarder_delim: str = "=", section_delim: str = "-") -> str:
        """The text of the error, with rules made of these two characters."""
        title = f"{self.name} FAILED"
        root, _ = self.get_first_failure()
        shown = {
            rank: describe(index, rank, failure)
            for index, (rank, failure) in enumerate(self.failures.items())
        }
        lines = [title, *(line for text in shown.values() for line in text.splitlines())]
        width = min(max(map(len, lines)), _WIDEST_RULE)
        border, section = boarder_delim * width, section_delim * width
        others = [text for rank, text in shown.items() if rank != root] or ["  <NO_OTHER_FAILURES>"]
        first = ["", border, title, section, "Failures:", *others]
        last = [section, "Root Cause (first observed failure):", shown[root], border]
        return "\n".join(first + last)


def read_record(data: Any) -> tuple[str | dict[str, Any], int]:
    """Message and timestamp of an error file, which holds a plain text or a structure."""
    if not isinstance(data, dict):
        raise ValueError(f"an error file holds a JSON object, not {type(data).__name__}")
    message = data["message"]
    if isinstance(message, str):
        return message, to_timestamp(data.get("timestamp", 0))
    if not isinstance(message, dict) or not isinstance(message["extraInfo"], dict):
        raise ValueError("the message of an error file is a text, or an object that has an extraInfo object")
    return message, to_timestamp(message["extraInfo"]["timestamp"])


def to_timestamp(value: Any) -> int:
    try:
        datetime.fromtimestamp(int(value))
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"a timestamp is a number of seconds since the epoch, not {value!r}")
    return int(value)


def describe(index: int, rank: int, failure: ProcessFailure) -> str:
    message = failure.message
    if isinstance(message, dict):
        message = str(message.get("extraInfo", {}).get("py_callstack", message.get("message", NOT_AVAILABLE)))
    name = failure.signal_name()
    ending = "" if name == NOT_AVAILABLE else f"  ({name})"
    indented = message.replace("\n", "\n  ")
    # The plain host name: the fully qualified one may ask a name server, for seconds.
    return (
        f"[{index}]:\n"
        f"  time      : {failure.timestamp_isoformat()}\n"
        f"  host      : {socket.gethostname()}\n"
        f"  rank      : {rank} (local_rank: {failure.local_rank})\n"
        f"  exitcode  : {failure.exitcode} (pid: {failure.pid}){ending}\n"
        f"  error_file: {failure.error_file}\n"
        f"  traceback : {indented}"
    )
