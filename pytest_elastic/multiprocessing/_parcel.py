"""Parcels: objects on the way to a new process, pickled as `multiprocessing` itself would send them.

Its queues, locks, connections and shared memory come along, since their descriptors do.

Private names of the standard library: `multiprocessing.resource_tracker._resource_tracker._fd` and
`BaseProcess._inheriting`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.spawn
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

from pytest_elastic.pristine import os, pickle
from pytest_elastic.processes import memory_file, read_memory_file

T = TypeVar("T")


class Parcel:
    """A pickled object with its descriptors, on the way to one process.

    While it is pickled it stands in for the `Popen` of `multiprocessing`, which collects the descriptors.
    """

    def __init__(self, name: str, content: object) -> None:
        self._carried: list[int] = []
        self._named: dict[str, int] = {}
        multiprocessing.context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            pickled = bytes(ForkingPickler.dumps(content))
            preparation = multiprocessing.spawn.get_preparation_data(name)
            self._named["payload"] = memory_file(pickle.dumps((preparation, pickled)))
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


class Carried:
    """A descriptor in a pickle: its position among those that travelled with the process."""

    arrived: dict[str, int] = {}  # noqa: RUF012 - of this process, set once, before anything is unpickled.

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        """Its number in this process."""
        return self.arrived[f"carried{self._place}"]


def receive_parcel(descriptors: dict[str, int]) -> Callable[[Callable[[bytes], T]], T]:
    """In the new process: what opens the parcel that came with these descriptors.

    It imports `__main__`, which must start no processes, and calls what it is given with the pickled object.
    """
    Carried.arrived = descriptors
    if "tracker" in descriptors:
        vars(resource_tracker)["_resource_tracker"]._fd = descriptors["tracker"]
    preparation, content = pickle.loads(read_memory_file(descriptors["payload"]))

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
