"""Suites for those who write their own: no runner needed, plain `AssertionError`s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_elastic.launch import raises_on_ranks

__all__ = ["check_store", "raises_on_ranks"]


def check_store(make_store: Callable[[], Any]) -> None:
    """Check a kind of store against the contract's lines on keys, values, operations and time.

    Takes some seconds, 10 more if the store blocks for ever on some lines (their threads are left behind).

    Args:
        make_store: gives a new, empty store at each call, from any thread; its `clone()` must share the
            data.

    Raises:
        AssertionError: some lines do not hold; the text has one line for each, as `S36: why`, ascending.
    """
    from pytest_elastic.store._conformance import complaints

    found = complaints(make_store)
    if found:
        raise AssertionError("\n".join(f"{line}: {text}" for line, text in found.items()))
