"""What ranks do together over a store: gather everybody's data, and wait for everybody.

These take any store (ours, torch's, a mock) and call nothing on it but the operations that are listed in
their docstrings, in that order.  On stores of ours two arguments say more than they say to others: the
amount of an `add` tells the rank and how many are to come (`Arrival`), and keys tell who writes them, that
a timeout is counted on, or a bound of all waits after a timeout (`Asked`).  So our stores know who arrived
at a barrier, exactly, and `barrier` asks them (`members`) before it raises.

A prefix is good for one use: its keys stay in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from pytest_elastic.clock import SYSTEM_CLOCK, Deadline
from pytest_elastic.store._api import Value
from pytest_elastic.store._arguments import Arrival, Asked
from pytest_elastic.store._handle import members_of
from pytest_elastic.store._operations import LAST_MEMBER, NUM_MEMBERS

_TRACE = "/TRACE"
_GATE = "/TRACING_GATE"
_IGNORED = "<val_ignored>"
_MOST_MISSING = 16
_SLACK = 0.25  # Seconds that rank 0 has, beyond `trace_timeout`, to open the gate.

_log = logging.getLogger(__name__)


@contextmanager
def store_timeout(store: Any, timeout: float) -> Iterator[None]:
    """Set the store's timeout (seconds), and restore the old one at the end, errors included.

    Threads that share one store object share its timeout: give each thread a `clone()`.
    """
    old = store.timeout
    store.set_timeout(timedelta(seconds=timeout))
    try:
        yield
    finally:
        store.set_timeout(old)


def get_all(store: Any, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """The values of `{prefix}0` to `{prefix}{world_size - 1}`; rank 0 returns after all others have them.

    Operations: `multi_get`; `add` 1 to `{prefix}/finished/num_members`; `set` of
    `{prefix}/finished/last_member` by the last rank; rank 0 only: `wait` for that key.

    Raises:
        ValueError: `world_size` or `rank` is out of range.
        DistStoreError: values did not come within the store's timeout.
    """
    __tracebackhide__ = True
    _check(world_size, rank)
    values: list[bytes] = store.multi_get(asked_of_all(store, rank, prefix, world_size))
    last = _check_in(store, world_size, f"{prefix}/finished", rank)
    if rank == 0:
        store.wait([last])
    return values


def synchronize(
    store: Any, data: Value, rank: int, world_size: int, key_prefix: str, timeout: float = 300
) -> list[bytes]:
    """Give this rank's data to all, and get everybody's in rank order.

    A second call with the same prefix returns at once with what is then in the store.

    Operations: those of `store_timeout` around a `set` of `{key_prefix}{rank}` and those of `get_all`.

    Args:
        timeout: seconds for the whole; becomes the store's timeout meanwhile (see `store_timeout`).

    Raises:
        ValueError: `world_size` or `rank` is out of range.
        DistStoreError: some rank's data did not come.
    """
    __tracebackhide__ = True
    _check(world_size, rank)
    with store_timeout(store, timeout):
        store.set(f"{key_prefix}{rank}", data)
        return get_all(store, rank, key_prefix, world_size)


def barrier(
    store: Any,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float = 300,
    rank: int | None = None,
    rank_tracing_decoder: Callable[[int], str] | None = None,
    trace_timeout: float = 10,
) -> None:
    """Wait until `world_size` calls with this prefix were made; one call more passes at once, with a warning.

    With `rank`, a barrier that times out says which ranks are missing.  On other stores rank 0 finds out by
    the traces that the others leave, in `trace_timeout` seconds; on ours every rank knows, also when rank 0
    is missing, and the error has `missing_ranks`, `arrived_ranks` and `elapsed` (seconds).

    Operations: reading `timeout`; `set_timeout`; `add` 1 to `{key_prefix}/num_members`; `set` of
    `{key_prefix}/last_member` by the last rank; `wait` for it; `set_timeout` back, which is left out after
    an error.  After an error with `rank`: `set` of `{key_prefix}{rank}/TRACE`; then rank 0 waits for the
    others' traces and sets `{key_prefix}/TRACING_GATE`, and the others wait for that.

    Args:
        barrier_timeout: seconds; becomes the store's timeout meanwhile.  Threads that share one store object
            share it: give each thread a `clone()`.
        rank_tracing_decoder: what to call a rank in the error, `str` by default.

    Raises:
        ValueError: `world_size` or `rank` is out of range.
        AssertionError: a decoder without `rank`.
        DistStoreError: not everybody came in time; in the type of the store's own error.
    """
    __tracebackhide__ = True  # Pytest then ends the traceback at the caller's line.
    if rank is None and rank_tracing_decoder is not None:
        raise AssertionError("Tracing requires rank information")
    _check(world_size, rank)
    started = SYSTEM_CLOCK.monotonic()
    old = store.timeout
    store.set_timeout(timedelta(seconds=barrier_timeout))
    last = _check_in(store, world_size, key_prefix, rank)
    waited = SYSTEM_CLOCK.monotonic()
    try:
        store.wait([last])
    except Exception as error:
        if rank is None or not _is_store_error(error):
            raise
        tracing = _Tracing(store, world_size, key_prefix, rank, rank_tracing_decoder or str, trace_timeout)
        tracing.began = started - _skipped(error, waited)
        raise tracing.explain(error, barrier_timeout) from None
    store.set_timeout(old)


def _check(world_size: int, rank: int | None) -> None:
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, not {world_size}")
    if rank is not None and not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to {world_size - 1}, not {rank}")


def asked_of_all(store: Any, rank: int, prefix: str, world_size: int) -> list[str]:
    """Everybody's keys; who writes which is known where the store's user has this very place."""
    writers = range(world_size) if getattr(store, "place", None) == (rank, world_size) else ()
    return Asked([f"{prefix}{i}" for i in range(world_size)], writers=writers)


def _check_in(store: Any, world_size: int, prefix: str, rank: int | None) -> str:
    """Count this caller; the key that exists once all are counted."""
    last = f"{prefix}{LAST_MEMBER}"
    count = store.add(f"{prefix}{NUM_MEMBERS}", Arrival(rank, world_size))
    if count == world_size:
        store.set(last, _IGNORED)
    elif count > world_size:
        _log.warning(
            "barrier %r: call number %d of %d passes at once; a prefix synchronises only once",
            prefix,
            count,
            world_size,
        )
    return last


def is_trace(name: str, keys: Sequence[str]) -> bool:
    """Whether a request is one of a barrier that has timed out, and finds out who is missing."""
    return name == "members" or any(key.endswith((_TRACE, _GATE)) for key in keys)


def _skipped(error: Exception, began: float) -> float:
    """Seconds that a store let pass at once in a wait which began then; see `Service.jump`."""
    elapsed = getattr(error, "elapsed", None) or 0.0
    return max(0.0, elapsed - (SYSTEM_CLOCK.monotonic() - began))


def _is_store_error(error: BaseException) -> bool:
    return any(kind.__name__ == "DistStoreError" for kind in type(error).__mro__)


class _Tracing:
    """Finds out who is missing at a barrier that timed out.

    Attributes:
        began: when the barrier was called; earlier by what was skipped since.
    """

    began = 0.0

    def __init__(
        self,
        store: Any,
        world_size: int,
        prefix: str,
        rank: int,
        decode: Callable[[int], str],
        timeout: float,
    ) -> None:
        self._store, self._world_size, self._prefix = store, world_size, prefix
        self._rank, self._decode, self._timeout = rank, decode, timeout

    def explain(self, error: Exception, barrier_timeout: float) -> Exception:
        """The error to raise: of the first one's type, with names; or the first one, if nobody knows any."""
        self._store.set(f"{self._prefix}{self._rank}{_TRACE}", _IGNORED)
        found = self._find_missing() if self._rank == 0 else self._ask_rank_0()
        arrived = self._arrived()
        missing = sorted(set(range(self._world_size)).difference(arrived or ()))
        if arrived is not None and (found is None or self._rank == 0):
            found = [self._decode(rank) for rank in missing[:_MOST_MISSING]]
        if found is None:
            return error
        text = (
            f"Timed out waiting on barrier on rank {self._rank}, for key prefix: {self._prefix}"
            f" (world_size={self._world_size}, missing_ranks=[{', '.join(found)}], timeout={barrier_timeout})"
        )
        if arrived is None:
            return _like(error, text, {})
        if not missing:
            text += ": all ranks arrived, but nobody released the barrier in time"
        elapsed = SYSTEM_CLOCK.monotonic() - self.began
        return _like(error, text, {"missing_ranks": missing, "arrived_ranks": arrived, "elapsed": elapsed})

    def _find_missing(self) -> list[str]:
        """Rank 0's part: look for the traces, then open the gate."""
        missing: list[str] = []
        deadline = Deadline.after(self._timeout)
        for rank in range(1, self._world_size):
            if len(missing) == _MOST_MISSING:
                break
            # Once one is missing the others had their time, too.
            span = timedelta(milliseconds=1) if missing else timedelta(seconds=self._timeout)
            keys = Asked([f"{self._prefix}{rank}{_TRACE}"], deadline.remaining(), may_timeout=True)
            if not self._wait(keys, span):
                missing.append(self._decode(rank))
        self._store.set(f"{self._prefix}{_GATE}", _IGNORED)
        return missing

    def _ask_rank_0(self) -> list[str] | None:
        """Another rank's part; `None` if rank 0 does not answer."""
        if self._wait(Asked([f"{self._prefix}{_GATE}"], self._timeout + _SLACK, may_timeout=True)):
            return [f"[<check rank 0 ({self._decode(0)}) for missing rank info>]"]
        return None

    def _wait(self, keys: list[str], *span: timedelta) -> bool:
        began = SYSTEM_CLOCK.monotonic()
        try:
            self._store.wait(keys, *span)
        except Exception as error:
            if not _is_store_error(error):
                raise
            self.began -= _skipped(error, began)
            return False
        return True

    def _arrived(self) -> list[int] | None:
        """The ranks that were counted, ascending; `None` where the store cannot say."""
        ranks = members_of(self._store, f"{self._prefix}{NUM_MEMBERS}")
        return None if ranks is None else sorted(set(ranks))


def _like(error: Exception, text: str, fields: dict[str, Any]) -> Exception:
    """An error of the same type with another text; its constructor may want other arguments."""
    kind = type(error)
    other = kind.__new__(kind, text)
    other.args = (text,)
    other.__dict__.update(vars(error), **fields)
    return other
