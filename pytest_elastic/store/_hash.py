"""The store of the threads of one process.

*Re-entrance.*  A handler of a signal, or a finalizer, may use the store while its own thread is in the middle
of an operation, which then has the lock.  The lock lets it in, the state bears it (see `_state`), and if it
has to wait the lock is given up meanwhile: what the interrupted operation has not done yet comes after that.
"""

from __future__ import annotations

from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.pristine import threading
from pytest_elastic.store._handle import Handle, timeout_error, watch_forks
from pytest_elastic.store._operations import OPERATIONS
from pytest_elastic.store._state import StoreState, Waiter


class _Data:
    """The data of a store and its clones: the state, its lock, and a bell (a held lock) for each waiter."""

    def __init__(self) -> None:
        self.state = StoreState(wake="level")
        self.operations = {name: getattr(self.state, name) for name in OPERATIONS}
        self.lock = threading.RLock()
        self.bells: dict[Waiter, threading.Lock] = {}
        self.hanging = 0  # Operations whose bell may not be hung yet.
        watch_forks(self)

    def ring(self) -> None:
        """Wake those whom the last write concerns; the caller holds the lock."""
        woken = self.state.woken
        for waiter in woken:  # Grows meanwhile, if one gives back what it got.
            bell = self.bells.get(waiter)
            if bell is None and not self.hanging:  # An interrupt came before it could be hung.
                self.state.abandon(waiter)
            elif bell is not None and bell.locked():  # Else it rings already, and nobody has come yet.
                bell.release()
        woken.clear()

    def hang_bell(self, waiter: Waiter) -> threading.Lock:
        waiter.client = threading.get_ident()
        bell = self.bells[waiter] = threading.Lock()
        bell.acquire()
        return bell

    def forget(self, waiter: Waiter) -> None:
        """Nobody waits for this one any more."""
        self.state.abandon(waiter)
        self.bells.pop(waiter, None)
        self.ring()

    def after_fork(self) -> None:
        """In a forked child: the threads that hold the lock or wait are not there."""
        self.lock, self.hanging = threading.RLock(), 0
        for waiter in self.state.waiters():
            self.state.abandon(waiter)
        self.state.woken.clear()
        self.bells.clear()


class HashStore(Handle):
    """An in-memory store for the threads of one process.

    Operations are atomic.  A woken waiter looks again, so it may miss a key that was deleted at once.
    Threads that share one object share its timeout, which `barrier` and `synchronize` change while they run:
    give each thread a `clone()`.

    >>> store = HashStore()
    >>> store.set("epoch", "1")
    >>> store.add("epoch", 4)
    5
    >>> store.set_timeout(0)  # Seconds, or a `timedelta`; 300 s at first.
    >>> store.get("missing")
    Traceback (most recent call last):
    ...
    pytest_elastic.errors.DistStoreError: Wait timeout after 0 ms, missing keys: 'missing'
    """

    def __init__(self) -> None:
        super().__init__()
        self._data = _Data()

    def clone(self) -> HashStore:
        """A handle on the same data with its own timeout, equal at first."""
        other = object.__new__(HashStore)
        other._data = self._data
        other.set_timeout(self._timeout)
        return other

    def _call(self, name: str, *arguments: Any) -> Any:
        data = self._data
        with data.lock:
            try:
                return data.operations[name](*arguments)
            finally:  # What raises may have failed others, too.
                if data.state.woken:
                    data.ring()

    def _block(self, seconds: float, name: str, *arguments: Any) -> Any:
        data = self._data
        waiter: Waiter | None = None
        try:
            with data.lock:
                data.hanging += 1
                try:
                    try:
                        answer = data.operations[name](*arguments)
                    finally:
                        if data.state.woken:
                            data.ring()
                    if type(answer) is not Waiter:
                        return answer
                    waiter = answer
                    bell = data.hang_bell(waiter)
                finally:
                    data.hanging -= 1
            return _wait(data, waiter, bell, seconds)
        except BaseException:  # A timeout or an interrupt: whatever it is, the waiter is forgotten.
            if waiter is not None:
                with data.lock:
                    data.forget(waiter)
            raise


def _wait(data: _Data, waiter: Waiter, bell: threading.Lock, seconds: float) -> Any:
    """The waiter's answer, once its bell has rung and it is done."""
    started = SYSTEM_CLOCK.monotonic()
    deadline = Deadline(started + seconds)
    while True:  # First a look: it may have been done before its bell hung.
        with data.lock:
            if data.state.resume(waiter):
                data.bells.pop(waiter, None)
                if isinstance(waiter.result, Exception):
                    raise waiter.result
                return waiter.result
            if deadline.passed():
                elapsed = SYSTEM_CLOCK.monotonic() - started
                raise timeout_error(data.state.missing(waiter), seconds, elapsed)
        held = _release(data.lock)
        try:
            bell.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX))
        finally:
            for _ in range(held):
                data.lock.acquire()


def _release(lock: Any) -> int:
    """Give up a lock that an interrupted operation of this thread has; how often it had it."""
    held = 0
    try:
        while True:
            lock.release()
            held += 1
    except RuntimeError:
        return held
