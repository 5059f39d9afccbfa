"""What a test may declare about its ranks, from within them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pytest_elastic.launch._rank import current_world


@contextmanager
def raises_on_ranks(
    error: type[BaseException] | tuple[type[BaseException], ...], ranks: Collection[int]
) -> Iterator[None]:
    """A block that must raise on exactly these ranks; on the others it must not.

    Args:
        error: what it must raise; anything else passes through.
        ranks: where.

    Raises:
        AssertionError: this rank was to raise and did not.
        RuntimeError: this process is no rank.
    """
    rank = current_world().rank
    if rank not in ranks:
        yield
        return
    try:
        yield
    except error:
        return
    names = " or ".join(kind.__name__ for kind in (error if isinstance(error, tuple) else (error,)))
    raise AssertionError(f"rank {rank} did not raise {names}")
