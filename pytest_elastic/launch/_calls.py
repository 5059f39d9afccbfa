"""What functions on ranks are called with, on its way there.

*Rules.*  Where all ranks are called alike, what they call is pickled once; else once for each rank, so that
no rank has descriptors of another one's arguments: who waits for the end of a pipe would wait for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from pytest_elastic.launch import _byvalue
from pytest_elastic.multiprocessing import Parcel

Payload = tuple[Any, Any] | None
"""A function, and the arguments of all ranks, or rank -> arguments; `None` where orders come by channel."""


def data_of(payload: Payload, rank: int) -> bytes:
    """What a rank calls, for one that has no descriptors.

    Raises:
        TypeError: it cannot be sent; the text says what.
    """
    function, args = payload or (None, ())
    return _byvalue.dumps((function, args[rank] if isinstance(args, Mapping) else args))


@contextmanager
def sent(payload: Payload, ranks: Iterable[int]) -> Iterator[dict[int, dict[str, int]]]:
    """In the context: rank -> descriptors that are to travel with it.

    Raises:
        TypeError: see `data_of`.
    """
    with ExitStack() as stack:
        found: dict[int, dict[str, int]] = {}
        parcel: Parcel | None = None
        for rank in ranks if payload is not None else ():
            if parcel is None or isinstance(payload and payload[1], Mapping):
                parcel = stack.enter_context(closing(Parcel(partial(data_of, payload, rank))))
            found[rank] = parcel.descriptors()
        yield found
