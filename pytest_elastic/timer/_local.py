"""Timers over a `multiprocessing` queue."""

from __future__ import annotations

import io
from queue import Empty
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.pristine import os
from pytest_elastic.timer._requests import RELEASE, RequestQueue, TimerClient, TimerRequest, log, made_here
from pytest_elastic.timer._watchdog import ProcessTimerServer


class LocalTimerClient(TimerClient):
    """Timer client that sends its requests through a `multiprocessing` queue, which all ranks share.

        queue = multiprocessing.Queue()
        server = LocalTimerServer(queue)
        server.start()
        # In each rank, which got the queue by a fork or a spawn:
        configure(LocalTimerClient(queue))

    **Hazard.**  A rank that is killed inside `put` may leave the queue locked, and then no other rank can
    send (30 to 100 % of the kills of a rank that is using it).  And `acquire` returns when the request is
    with a thread of this process: a rank that hangs with the interpreter's lock held right after it may never
    have sent it, and is not killed.  The plugin never uses it; `FileTimerClient` has neither hazard.
    """

    def __init__(self, mp_queue: Any) -> None:
        self._queue = mp_queue

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self._queue.put(make_request(scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        self._queue.put(make_request(scope_id, RELEASE))


def make_request(scope_id: str, expiration_time: float) -> TimerRequest:
    """The request of the calling thread for this process."""
    return TimerRequest(os.getpid(), str(scope_id), expiration_time, origin=made_here(expiration_time))


class MultiprocessingRequestQueue(RequestQueue):
    """Request queue of a timer server, over a `multiprocessing` queue.

    **Hazard.**  A rank that is killed inside `put` may leave the queue locked for all others, or announce a
    request that never comes; see `LocalTimerClient`.
    """

    def __init__(self, mp_queue: Any) -> None:
        self._queue = mp_queue

    def size(self) -> int:
        return int(self._queue.qsize())

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Blocks until `size` requests are there, or for `timeout` seconds; logs one that cannot be read.

        Raises:
            OSError, EOFError: the queue is closed.
        """
        deadline = Deadline.after(timeout)
        requests: list[TimerRequest] = []
        for _ in range(size):
            try:
                requests.append(self._queue.get(timeout=deadline.remaining()))
            except Empty:
                break
            except (OSError, EOFError):
                if not requests:
                    raise
                break
            except Exception as error:  # Something that does not unpickle, unless the queue was closed.
                self.fileno()
                log.warning("a timer request cannot be read: %s", repr(error))
        return requests

    def fileno(self) -> int:
        """Readable while requests are there.

        Raises:
            io.UnsupportedOperation: this kind of queue has no descriptor.
        """
        reader = getattr(self._queue, "_reader", None)
        if reader is None:
            raise io.UnsupportedOperation(f"{type(self._queue).__name__} has no descriptor")
        return int(reader.fileno())


class LocalTimerServer(ProcessTimerServer):
    """Timer server of `LocalTimerClient`s: kills the process of each rank whose timer expired, by SIGKILL.

    Only this user's processes are signalled, and only those that were alive when they acquired.

    Args:
        mp_queue: a queue of any `multiprocessing` context, the one that the clients have.
        max_interval: seconds until a kill that failed is tried again, at most; not the precision.
        daemon: whether the watchdog's thread ends with the process.
    """

    def __init__(self, mp_queue: Any, max_interval: float = 60, daemon: bool = True) -> None:
        super().__init__(MultiprocessingRequestQueue(mp_queue), max_interval, daemon)
