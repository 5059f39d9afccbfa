"""Parcels: objects on the way to a new process, with the descriptors that they need there.

Queues, locks, connections and shared memory of `multiprocessing` come along, since their descriptors do.

Private names of the standard library: `multiprocessing.resource_tracker._resource_tracker._fd` and
`BaseProcess._inheriting`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.spawn
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any, TypeVar

from pytest_elastic.pristine import os, pickle
from pytest_elastic.processes import memory_file, read_memory_file

T = TypeVar("T")


class Parcel:
    """A pickled object with its descriptors, on the way to processes.

    While it is pickled it stands in for the `Popen` of `multiprocessing`, which collects the descriptors.

    Args:
        dumps: pickles it.
    """

    def __init__(self, dumps: Callable[[], bytes]) -> None:
        self._carried: list[int] = []
        self._named: dict[str, int] = {}
        multiprocessing.context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            self._named["payload"] = memory_file(dumps())
            # Shared memory belongs to the launcher's tracker; a process's own one would unlink it at its end.
            tracker = vars(resource_tracker)["_resource_tracker"]._fd
            if tracker is not None:
                self._named["tracker"] = os.dup(tracker)
        except BaseException:
            self.close()
            raise
        finally:
            multiprocessing.context.set_spawning_popen(None)

    def duplicate_for_child(self, descriptor: int) -> int:
        """Asked by `multiprocessing`: carry it along; the value is what `Carried` is made of."""
        self._carried.append(os.dup(descriptor))
        return len(self._carried) - 1

    @staticmethod
    def DupFd(place: int) -> Carried:
        """Asked by `multiprocessing`."""
        return Carried(place)

    def descriptors(self) -> dict[str, int]:
        """The descriptors that travel with the process, by name."""
        return {**self._named, **{f"carried{i}": number for i, number in enumerate(self._carried)}}

    def close(self) -> None:
        """Close this side's copies."""
        for number in (*self._named.values(), *self._carried):
            os.close(number)


def parcel_of_process(name: str, content: object) -> Parcel:
    """A parcel for a process of that name, pickled as `multiprocessing` itself would send it."""

    def dumps() -> bytes:
        pickled = bytes(ForkingPickler.dumps(content))
        return pickle.dumps((multiprocessing.spawn.get_preparation_data(name), pickled))

    return Parcel(dumps)


def packed(name: str, content: object) -> bytes:
    """The same for a process that gets no descriptors, and whose directory and path are its own.

    What holds a descriptor cannot be sent to it.
    """
    told = multiprocessing.spawn.get_preparation_data(name)
    for here in ("authkey", "dir", "sys_path"):
        told.pop(here, None)
    return pickle.dumps((told, bytes(ForkingPickler.dumps(content))))


class Descriptor:
    """A descriptor of this process as an argument for another one, which gets the number that it has there.

        reader, writer = os.pipe()
        group = elastic.start(report, args=(Descriptor(writer),))  # `report` is called with a number.
        os.close(writer)  # Ranks have their own by now.

    Args:
        number: here; stays the caller's.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        multiprocessing.context.assert_spawning(self)
        return _detach, (DupFd(self.number),)


def _detach(arrived: Any) -> Any:
    return arrived.detach()


class Carried:
    """A descriptor in a pickle: its position among those that travelled with the process."""

    arrived: dict[str, int] = {}  # noqa: RUF012 - of this process, set once, before anything is unpickled.

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        """Its number in this process."""
        return self.arrived[f"carried{self._place}"]


def read_parcel(descriptors: dict[str, int]) -> bytes:
    """In the new process: what came with these descriptors, pickled."""
    Carried.arrived = descriptors
    if "tracker" in descriptors:
        vars(resource_tracker)["_resource_tracker"]._fd = descriptors["tracker"]
    return read_memory_file(descriptors["payload"])


def receive_parcel(descriptors: dict[str, int]) -> Callable[[Callable[[bytes], T]], T]:
    """In the new process: what opens the parcel of a process that came with these descriptors."""
    return unpacking(read_parcel(descriptors))


def unpacking(data: bytes) -> Callable[[Callable[[bytes], T]], T]:
    """In the new process: what opens a parcel of a process, or what was packed for it.

    It imports `__main__`, which must start no processes, and calls what it is given with the pickled object.
    """
    preparation, content = pickle.loads(data)

    def open_parcel(load: Callable[[bytes], T]) -> T:
        process: Any = multiprocessing.current_process()
        # The word of `multiprocessing` for it: who starts processes meanwhile is told of the guard.
        process._inheriting = True
        try:
            multiprocessing.spawn.prepare(preparation)
            return load(content)
        finally:
            del process._inheriting

    return open_parcel
