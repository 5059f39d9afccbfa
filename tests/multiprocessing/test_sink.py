"""Text goes to a stream that may fail, and to a terminal that a progress bar may share."""

from __future__ import annotations

import io
import threading

import pytest

from pytest_elastic.multiprocessing._sink import Sink


class Stream:
    """Notes what is done to it; fails where `fails` says."""

    closed = False

    def __init__(self, events=None, fails=()):
        self.calls, self.events, self.fails = [], events, set(fails)

    def write(self, text):
        self._call(f"write {text}")

    def flush(self):
        self._call("flush")

    def _call(self, what):
        asked = [self.events["trigger_clear"].is_set()] if self.events else []
        self.calls.append((what, *asked))
        if what in self.fails:
            raise OSError(what)


def test_written_and_flushed():
    """Once each; nothing at all for no text."""
    stream = Stream()
    sink = Sink(stream, None, None)
    sink.write("a")
    sink.write("")
    assert stream.calls == [("write a",), ("flush",)]


def test_a_stream_without_flush():
    """It is not asked to."""
    written = []
    stream = type("Stream", (), {"write": lambda _, text: written.append(text)})()
    Sink(stream, None, None).write("a")
    assert written == ["a"]


def test_an_error_loses_one_text():
    """The first error is kept, later texts go out."""
    stream = Stream(fails={"write a", "write b"})
    sink = Sink(stream, None, None)
    for text in "abc":
        sink.write(text)
    assert (str(sink.error), sink.closed) == ("write a", False)
    assert [call for call, *_ in stream.calls] == ["write a", "write b", "write c", "flush"]


def test_a_closed_stream_is_the_end():
    """That is no error: there is nobody to write for."""
    stream = io.StringIO()
    stream.close()
    sink = Sink(stream, None, None)
    sink.write("a")
    assert (sink.closed, sink.error) == (True, None)


def test_the_lock_is_held_around_each_write():
    """It is free before and after."""
    lock = threading.Lock()
    held = []
    stream = type("Stream", (), {"write": lambda *_: held.append(lock.locked())})()
    Sink(stream, lock, None).write("a")
    assert [*held, lock.locked()] == [True, False]


@pytest.fixture
def events():
    return {"trigger_clear": threading.Event(), "cleared": threading.Event()}


def test_the_bar_is_away_while_lines_go_out(events):
    """It has been asked, and is let back when the lines are flushed."""
    events["cleared"].set()
    stream = Stream(events)
    Sink(stream, None, events).write("a")
    assert stream.calls == [("write a", True), ("flush", True)]
    assert not events["trigger_clear"].is_set()


def test_the_bar_comes_back_after_an_error(events):
    """`trigger_clear` does not stay set."""
    events["cleared"].set()
    Sink(Stream(events, fails={"write a"}), None, events).write("a")
    assert not events["trigger_clear"].is_set()


class Impatient(threading.Event):
    """Notes how long it is waited for, and never comes."""

    def __init__(self):
        super().__init__()
        self.timeouts = []

    def wait(self, timeout=None):
        self.timeouts.append(timeout)
        return False


def test_a_bar_that_never_answers_delays_each_text_by_a_second(events):
    """The lines go out all the same."""
    events["cleared"] = Impatient()
    stream = Stream(events)
    sink = Sink(stream, None, events)
    sink.write("a")
    sink.write("b")
    assert events["cleared"].timeouts == [1.0, 1.0]
    assert ("write b", True) in stream.calls


def test_at_the_end_it_delays_no_longer_than_that_in_all(events, monkeypatch):
    """However many texts are left."""
    events["cleared"] = Impatient()
    sink = Sink(Stream(events), None, events)
    sink.hurry()
    monkeypatch.setattr("pytest_elastic.clock.SystemClock.monotonic", lambda self: 1e12)
    for text in "abc":
        sink.write(text)
    assert events["cleared"].timeouts == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("key", ["trigger_clear", "cleared"])
def test_a_missing_event_is_named(events, key):
    """Before anything runs."""
    del events[key]
    with pytest.raises(ValueError, match=f"needs {key}"):
        Sink(Stream(), None, events)
