"""Signals of the launcher become an exception while somebody wants it, and are what they were afterwards."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading

import pytest

from pytest_elastic.multiprocessing import _signals
from pytest_elastic.multiprocessing._signals import SignalException, SignalHold

VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
DEFAULT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def handlers():
    return {number: signal.getsignal(number) for number in (*DEFAULT, signal.SIGUSR1)}


@pytest.fixture(autouse=True)
def before(monkeypatch):
    """The handlers as they were; a test that leaves others fails."""
    monkeypatch.delenv(VARIABLE, raising=False)
    found = handlers()
    yield found
    left = handlers()
    for number, handler in found.items():
        signal.signal(number, handler)
    _signals._holds.clear()
    _signals._replaced.clear()
    assert left == found


@pytest.fixture
def hold():
    made = SignalHold()
    yield made
    made.release()


def on_another_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize("number", DEFAULT)
def test_a_signal_is_raised(hold, number):
    """The text has pid and number, the error the signal."""
    hold.take()
    with pytest.raises(SignalException) as caught:
        os.kill(os.getpid(), number)
    assert str(caught.value) == f"Process {os.getpid()} got signal: {int(number)}"
    assert (caught.value.sigval, type(caught.value.sigval)) == (number, signal.Signals)


def test_pickle():
    """The signal survives."""
    again = pickle.loads(pickle.dumps(SignalException("text", signal.SIGTERM)))
    assert (type(again), str(again), again.sigval) == (SignalException, "text", signal.SIGTERM)


@pytest.mark.parametrize(
    ("names", "expected"),
    [("SIGUSR1", {signal.SIGUSR1}), (" SIGUSR1 , SIGTERM,", {signal.SIGUSR1, signal.SIGTERM}), ("", set())],
)
def test_the_signals_are_named(hold, before, monkeypatch, names, expected):
    """Blanks do not matter; no name is no signal."""
    monkeypatch.setenv(VARIABLE, names)
    hold.take()
    assert {number for number, handler in handlers().items() if handler is not before[number]} == expected


def test_what_cannot_be_handled_is_logged(hold, monkeypatch, caplog):
    """In one warning that names all of it; the others are handled."""
    monkeypatch.setenv(VARIABLE, "SIGKILL,SIGNONE,SIGUSR1,STOP")
    hold.take()
    assert [record.getMessage() for record in caplog.records] == [
        "these signals cannot be handled: SIGKILL, SIGNONE, STOP"
    ]
    with pytest.raises(SignalException):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_not_on_the_main_thread(hold, before, caplog):
    """One warning, with torch's words, and no handler."""
    on_another_thread(hold.take)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.WARNING,
            "Failed to register signal handlers since torchelastic is running on a child thread. "
            "This could lead to orphaned worker processes if the torchrun is terminated.",
        )
    ]
    assert handlers() == before


def test_restored(hold, before):
    """Whatever was there; releasing twice is fine, and so is a second turn."""
    for _ in range(2):
        hold.take()
        assert handlers() != before
        hold.release()
        hold.release()
        assert handlers() == before


def test_the_last_one_restores(hold, before):
    """In any order."""
    other = SignalHold()
    hold.take()
    other.take()
    hold.release()
    with pytest.raises(SignalException):
        os.kill(os.getpid(), signal.SIGTERM)
    other.release()
    assert handlers() == before


def test_a_handler_set_meanwhile_stays(hold):
    """Ours is not there any more to be taken back."""
    theirs = lambda *_: None  # noqa: E731
    original = signal.getsignal(signal.SIGUSR1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "SIGUSR1")
        hold.take()
        signal.signal(signal.SIGUSR1, theirs)
        hold.release()
        assert signal.getsignal(signal.SIGUSR1) is theirs
        hold.take()
        hold.release()
        assert signal.getsignal(signal.SIGUSR1) is theirs
    signal.signal(signal.SIGUSR1, original)


def test_released_by_another_thread(hold, before):
    """Ours gives way when the signal comes, or when the next one is released on the main thread."""
    hold.take()
    on_another_thread(hold.release)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_a_leftover_is_put_back_by_the_next_one(hold, before):
    """It is not taken for what was there before."""
    hold.take()
    on_another_thread(hold.release)
    hold.take()
    hold.release()
    assert handlers() == before


@pytest.mark.parametrize("action", ["ignored", "default", "function"])
def test_a_leftover_does_what_it_replaced(action):
    """In a process of its own, since the default is its end."""
    child = os.fork()
    if child == 0:
        _leave_ours_over(action)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    expected = {"ignored": 0, "default": -signal.SIGTERM, "function": 5}[action]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected


def _leave_ours_over(action):
    before = {"ignored": signal.SIG_IGN, "default": signal.SIG_DFL, "function": lambda *_: os._exit(5)}
    signal.signal(signal.SIGTERM, before[action])
    hold = SignalHold()
    hold.take()
    on_another_thread(hold.release)


def test_a_handler_on_top_of_ours_that_is_put_back():
    """A second context replaced it, and gave it back: still no endless loop."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        holds = [SignalHold(), SignalHold()]
        holds[0].take()
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *given: ours(*given))
        for hold in reversed(holds):
            hold.take()
        for hold in holds:
            hold.release()
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_handler_on_top_of_ours():
    """It may hand the signal on to ours: that is what ours replaced, not an endless loop."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        hold = SignalHold()
        hold.take()
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *given: ours(*given))
        hold.release()
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
