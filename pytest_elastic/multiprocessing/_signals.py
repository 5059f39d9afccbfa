"""Signals that ask the launcher to end: while ranks run, they become a `SignalException`.

*Theory of operation.*  Handlers belong to the process, contexts come and go: so the handlers are shared.
Each context takes a `SignalHold`; while there is one, our handler stands for the signals that were asked for,
and when the last one is released, what stood there before is put back, unless somebody replaced ours in the
meantime.  Only the main thread may set handlers.  If another one releases last, ours stays for the time being
and does nothing but give way to what it replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import FrameType
from typing import Any

from pytest_elastic.errors import ElasticError
from pytest_elastic.pristine import os, signal, threading

logger = logging.getLogger(__name__)

_DEFAULT_NAMES = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"

_lock = threading.RLock()  # Re-entrant: a signal may come while the main thread has it.
_holds: set[SignalHold] = set()
_replaced: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}


class SignalException(ElasticError):
    """The launcher received a signal that asks it to end.

    Raised in the main thread while ranks run; `TORCHELASTIC_SIGNALS_TO_HANDLE` names the signals
    (default: SIGTERM, SIGINT, SIGHUP and SIGQUIT).

    >>> import signal
    >>> SignalException("ended", signal.SIGTERM).sigval.name
    'SIGTERM'

    Attributes:
        sigval: the signal.
    """

    def __init__(self, msg: str, sigval: signal.Signals) -> None:
        self.sigval = sigval
        super().__init__(msg)


class SignalHold:
    """A context's hold on the signal handlers of the launcher.  Thread-safe."""

    def take(self) -> None:
        """Have `SignalException` raised in the main thread for each signal that we are to handle.

        They are named in `TORCHELASTIC_SIGNALS_TO_HANDLE`.  What cannot be handled is logged.
        """
        if threading.current_thread() is not threading.main_thread():
            logger.warning(
                "Failed to register signal handlers since torchelastic is running on a child thread. "
                "This could lead to orphaned worker processes if the torchrun is terminated."
            )
            return
        with _lock:
            _holds.add(self)
            text = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", _DEFAULT_NAMES)
            names = [name.strip() for name in text.split(",") if name.strip()]
            if refused := [name for name in names if not install_handler(name)]:
                logger.warning("these signals cannot be handled: %s", ", ".join(refused))

    def release(self) -> None:
        """Put back what stood there before, if nobody else needs ours; idempotent."""
        with _lock:
            _holds.discard(self)
            if not _holds and threading.current_thread() is threading.main_thread():
                restore_handlers()


def install_handler(name: str) -> bool:
    """Handle this signal, if that is possible."""
    try:
        number = signal.Signals[name]
        before = signal.getsignal(number)
        if before is not on_signal:
            signal.signal(number, on_signal)
            _replaced[number] = before
    except (KeyError, OSError, ValueError):
        return False
    return True


def restore_handlers() -> None:
    """Restore what ours replaced; where somebody else's stands now, it stays."""
    for number, before in list(_replaced.items()):
        if signal.getsignal(number) is on_signal:
            # `None` is a handler that C code had set: it cannot be restored, and the default is the nearest.
            signal.signal(number, signal.SIG_DFL if before is None else before)
            del _replaced[number]


def on_signal(signum: int, frame: FrameType | None) -> None:
    """The handler of all these signals."""
    if _holds:
        sigval = signal.Signals(signum)
        raise SignalException(f"Process {os.getpid()} got signal: {int(sigval)}", sigval)
    # Left over by a release on another thread, or called by a handler that was set on top of ours.
    before = _replaced.get(signum, signal.SIG_DFL)
    restore_handlers()
    if callable(before):
        before(signum, frame)
    elif before != signal.SIG_IGN:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
