"""What callers may pass, made into what the state holds: `str` keys, `bytes` values, 64-bit numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from operator import index

from pytest_elastic.clock import Span, to_seconds

SMALLEST, BIGGEST = -(2**63), 2**63 - 1


class Arrival(int):
    """The amount 1 of an `add`, which also says who arrives at a barrier.

    Other stores see the number 1; ours remember the rank, so that a barrier's error can name the missing.

    Attributes:
        rank: `None` where the caller did not say.
        world_size: how many arrivals release the barrier; 0 where the caller did not say.
    """

    rank: int | None
    world_size: int

    def __new__(cls, rank: int | None, world_size: int = 0) -> Arrival:
        arrival = super().__new__(cls, 1)
        arrival.rank, arrival.world_size = rank, world_size
        return arrival


class Asked(list[str]):
    """Keys to wait for, with what the caller knows beyond them; other stores see a list.

    Attributes:
        seconds: after which our stores end the wait at the latest.
        writers: the rank that alone writes each of the keys, in their order; `()` where that is not known.
        may_timeout: whether the caller counts on a timeout, so that the wait is no hang.
    """

    def __init__(
        self,
        keys: list[str],
        seconds: float = math.inf,
        writers: Sequence[int] = (),
        may_timeout: bool = False,
    ) -> None:
        super().__init__(keys)
        self.seconds, self.writers, self.may_timeout = seconds, writers, may_timeout

    def of(self, keys: list[str]) -> Asked:
        """The same knowledge of other names of the keys."""
        return Asked(keys, self.seconds, self.writers, self.may_timeout)


def as_key(key: object, name: str = "key") -> str:
    """The key as text.

    Raises:
        TypeError: it is neither `str` nor `bytes`, or text that is not Unicode (lone surrogates).
        ValueError: bytes that are not UTF-8.
    """
    if type(key) is str and key.isascii():
        return key
    if isinstance(key, str):
        if not key.isascii():
            _encode(key, name)
        return str.__str__(key)
    if not isinstance(key, bytes):
        raise TypeError(f"{name} must be str or bytes, not {type(key).__name__}")
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be UTF-8: {error}") from None


def as_keys(keys: object, name: str = "keys") -> list[str]:
    """The keys as a list; errors as in `as_key`, and `TypeError` for a bare key or a mapping."""
    if type(keys) is list or type(keys) is Asked:
        for key in keys:
            if type(key) is not str or not key.isascii():
                break
        else:
            return keys[:]
    return [as_key(key, f"every one of {name}") for key in _iterate(keys, name)]


def as_asked(keys: object, may_timeout: bool = False) -> list[str]:
    """`as_keys` that keeps what the caller knows of them."""
    names = as_keys(keys)
    if type(keys) is Asked:
        return Asked(names, keys.seconds, keys.writers, keys.may_timeout or may_timeout)
    return Asked(names, may_timeout=True) if may_timeout else names


def as_value(value: object, name: str = "value") -> bytes:
    """The value as bytes; `TypeError` for anything but `str`, `bytes` and `bytearray`."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        return _encode(value, name)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise TypeError(f"{name} must be str, bytes or bytearray, not {type(value).__name__}")


def as_values(values: object, name: str = "values") -> list[bytes]:
    """The values as a list; errors as in `as_keys`."""
    return [as_value(value, f"every one of {name}") for value in _iterate(values, name)]


def as_amount(amount: object) -> int:
    """A number of 64 bits; `TypeError` for `float`, text, `None`, and what is bigger."""
    if type(amount) is int and SMALLEST <= amount <= BIGGEST:
        return amount
    if isinstance(amount, float) or not (hasattr(amount, "__int__") or hasattr(amount, "__index__")):
        raise TypeError(f"amount must be an integer, not {type(amount).__name__}")
    number = index(amount) if hasattr(amount, "__index__") else int(amount)  # type: ignore[call-overload]
    if not SMALLEST <= number <= BIGGEST:
        raise TypeError(f"amount must fit 64 bits: {number}")
    return int(number)


def as_world_size(world_size: object) -> int:
    """At least 1; `TypeError` for what is no integer, `ValueError` below 1."""
    if isinstance(world_size, bool) or not hasattr(world_size, "__index__"):
        raise TypeError(f"world_size must be an integer, not {type(world_size).__name__}")
    number = index(world_size)
    if number < 1:
        raise ValueError(f"world_size must be at least 1, not {number}")
    return number


def as_span(timeout: Span) -> timedelta:
    """The span with its microseconds; what a `timedelta` cannot hold becomes the longest or shortest one."""
    if isinstance(timeout, timedelta):
        return timeout
    seconds = to_seconds(timeout)
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        return timedelta.max if seconds > 0 else timedelta.min


def _encode(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"{name} must be Unicode text: {error}") from None


def _iterate(many: object, name: str) -> Iterable[object]:
    if isinstance(many, str | bytes | bytearray | Mapping) or not isinstance(many, Iterable):
        raise TypeError(f"{name} must be an iterable, not {type(many).__name__}")
    return many
