"""How a rank records its error, and never hides it."""

from __future__ import annotations

import filecmp
import json
import logging
import os
import time
import warnings
from unittest import mock

import pytest

from pytest_elastic import pristine
from pytest_elastic.multiprocessing.errors import (
    ChildFailedError,
    ErrorHandler,
    ProcessFailure,
    get_error_handler,
    record,
)


@pytest.fixture(autouse=True)
def fault_handler():
    """Stays as pytest has set it."""
    with mock.patch("faulthandler.enable") as enable:
        yield enable


@pytest.fixture
def error_file(tmp_path, monkeypatch):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail(error):
    raise error


def test_the_format(error_file):
    """Type and text, the stack with its causes, and the time."""

    def chain():
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise ValueError("boom") from cause

    before = int(time.time())
    with pytest.raises(ValueError, match="boom"):
        record(chain)()
    data = json.loads(error_file.read_text())
    extra = data["message"].pop("extraInfo")
    assert data == {"message": {"message": "ValueError: boom"}}
    assert set(extra) == {"py_callstack", "timestamp"}
    assert extra["py_callstack"].startswith("Traceback")
    assert "KeyError: 'cause'" in extra["py_callstack"]
    assert before <= int(extra["timestamp"]) <= time.time()


def test_whole_or_not_at_all(error_file, monkeypatch):
    """What is there stays until the new file is complete, and no draft is left."""
    error_file.write_text("old")
    monkeypatch.setattr(pristine.os, "replace", mock.Mock(side_effect=OSError("killed here")))
    with pytest.warns(RuntimeWarning, match="killed here"):
        ErrorHandler().record_exception(ValueError("boom"))
    assert (error_file.read_text(), os.listdir(error_file.parent)) == ("old", ["error.json"])


def test_the_file_is_named_when_the_error_happens(tmp_path, monkeypatch):
    """Not when the function is wrapped; the second error overwrites the first."""

    def main():
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "late.json"))
        raise ValueError("boom")

    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(ValueError, match="boom"):
        record(main)()
    ErrorHandler().record_exception(KeyError("second"))
    assert "KeyError" in (tmp_path / "late.json").read_text()


@pytest.mark.parametrize("name", [None, ""])
def test_no_file_is_asked_for(tmp_path, monkeypatch, name):
    """Then none is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    if name is not None:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", name)
    ErrorHandler().record_exception(ValueError("boom"))
    assert os.listdir(tmp_path) == []


def test_success(error_file):
    """The value comes back, name and docstring are kept, nothing is written."""

    @record
    def main(a, *, b):
        """Docs."""
        return a + b

    assert (main(1, b=2), main.__name__, main.__doc__) == (3, "main", "Docs.")
    assert not error_file.exists()


def test_the_same_error_is_raised_again(error_file):
    """The object, not a copy."""
    error = ValueError("boom")
    with pytest.raises(ValueError) as caught:
        record(fail)(error)
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_other_ends_are_not_recorded(error_file, error):
    """They pass."""
    with pytest.raises(type(error)):
        record(fail)(error)
    assert not error_file.exists()


@pytest.mark.parametrize("code", [0, False])
def test_a_good_exit(error_file, code):
    """It is a return of `None`."""
    assert record(fail)(SystemExit(code)) is None
    assert not error_file.exists()


@pytest.mark.parametrize("code", [None, 1, "text"])
def test_any_other_exit(error_file, code):
    """It passes, and writes nothing."""
    with pytest.raises(SystemExit) as caught:
        record(fail)(SystemExit(code))
    assert (caught.value.code, error_file.exists()) == (code, False)


@pytest.fixture
def child_file(tmp_path):
    """A child's error file with this message."""

    def make(message):
        path = tmp_path / "child.json"
        path.write_text(json.dumps({"message": message}))
        return str(path)

    return make


STRUCTURE = {"message": "m", "extraInfo": {"timestamp": "10"}}


@pytest.mark.parametrize(
    ("message", "expected"), [(STRUCTURE, {**STRUCTURE, "errorCode": 7}), ("text", "text")]
)
def test_a_child_s_file_is_handed_on(error_file, child_file, message, expected):
    """With the child's exit code where there is room for it."""
    failures = {0: ProcessFailure(0, 1, 7, child_file(message)), 1: ProcessFailure(1, 2, 1, "", stopped=True)}
    with pytest.raises(ChildFailedError):
        record(fail)(ChildFailedError("trainer", failures))
    assert json.loads(error_file.read_text()) == {"message": expected}


def test_a_child_without_a_file(error_file):
    """Nothing is written."""
    with pytest.raises(ChildFailedError):
        record(fail)(ChildFailedError("trainer", {0: ProcessFailure(0, 1, 7, "")}))
    assert not error_file.exists()


def test_an_error_that_cannot_be_printed(error_file):
    """Its type is recorded, and it propagates."""
    with pytest.warns(RuntimeWarning, match="RuntimeError"), pytest.raises(Unprintable):
        record(fail)(Unprintable())
    assert json.loads(error_file.read_text())["message"]["message"].startswith("Unprintable: ")


@pytest.mark.parametrize("place", ["gone/error.json", "."])
def test_an_unwritable_path(tmp_path, monkeypatch, place):
    """A directory that is gone, or one in the file's place: a warning, and the error propagates."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / place))
    with pytest.warns(RuntimeWarning, match="cannot write the error file"), pytest.raises(KeyError):
        record(fail)(KeyError("boom"))
    assert os.listdir(tmp_path) == []


def test_warnings_that_are_errors(tmp_path, monkeypatch, caplog):
    """They would hide the error: it is logged instead."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            record(fail)(KeyError("boom"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_handler_that_fails(error_file):
    """Also a user's own, and a child's file that is damaged."""

    class Broken(ErrorHandler):
        def record_exception(self, e):
            raise TypeError("handler")

    with pytest.warns(RuntimeWarning, match="TypeError: handler"), pytest.raises(ValueError, match="boom"):
        record(fail, Broken())(ValueError("boom"))
    failure = ProcessFailure(0, 1, 7, "")
    failure.error_file = "gone"
    with pytest.warns(RuntimeWarning, match="gone"), pytest.raises(ChildFailedError):
        record(fail)(ChildFailedError("trainer", {0: failure}))


def test_text_that_is_not_unicode(error_file):
    """A lone surrogate is escaped: what is read from the file can be printed."""
    ErrorHandler().record_exception(ValueError("a\udcff"))
    data = json.loads(error_file.read_text())
    assert data["message"]["message"] == "ValueError: a\\udcff"
    data["message"]["extraInfo"]["py_callstack"].encode()


def test_a_device_is_written_to(tmp_path, monkeypatch):
    """A file renamed into its place would do away with it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    ErrorHandler().record_exception(ValueError("boom"))
    assert b"ValueError: boom" in os.read(reader, 65536)
    os.close(reader)
    assert path.is_fifo()


def test_a_link_is_followed(tmp_path, monkeypatch):
    """The file that it names is written."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "link"))
    ErrorHandler().record_exception(ValueError("boom"))
    assert (tmp_path / "link").is_symlink()
    assert "boom" in (tmp_path / "target").read_text()


def test_initialize(fault_handler):
    """Stacks of all threads on a fault; a failure is a warning."""
    ErrorHandler().initialize()
    fault_handler.assert_called_once_with(all_threads=True)
    fault_handler.side_effect = RuntimeError("no stderr")
    with pytest.warns(RuntimeWarning, match="no stderr"):
        ErrorHandler().initialize()


def test_dump_is_a_copy(error_file, tmp_path):
    """Byte by byte, what was there is logged and gone."""
    ErrorHandler().record_exception(ValueError("boom"))
    child = error_file.rename(tmp_path / "child.json")
    error_file.write_text("old contents")
    logger = "pytest_elastic.multiprocessing.errors._record.logger"
    with mock.patch(logger) as mocked:
        ErrorHandler().dump_error_file(str(child))
    assert filecmp.cmp(child, error_file, shallow=False)
    assert "old contents" in mocked.warning.call_args.args


def test_dump_without_a_file_of_our_own(child_file, monkeypatch, caplog):
    """It is logged."""
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    ErrorHandler().dump_error_file(child_file("text"))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    ("data", "expected", "logged"),
    [
        ({"message": {"a": 1}}, {"message": {"a": 1, "errorCode": 7}}, 0),
        ({"message": "text"}, {"message": "text"}, 1),
        ({}, {}, 1),
    ],
)
def test_override(data, expected, logged, caplog):
    """In place; logged where there is no room."""
    ErrorHandler().override_error_code_in_rootcause_data("child.json", data, 7)
    assert (data, len(caplog.records)) == (expected, logged)


def test_a_subclass_is_used():
    """All that `record` does goes through it."""
    handler = mock.Mock(spec=ErrorHandler)
    error = ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        record(fail, handler)(error)
    assert handler.mock_calls == [mock.call.initialize(), mock.call.record_exception(error)]


def test_a_new_handler():
    """Each time."""
    assert type(get_error_handler()) is ErrorHandler
    assert get_error_handler() is not get_error_handler()
