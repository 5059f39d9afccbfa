"""Queues as users write them."""

from __future__ import annotations

import os
import queue

from pytest_elastic.timer import RequestQueue, TimerRequest


class UserQueue(RequestQueue):
    """A queue between threads, without a descriptor."""

    def __init__(self, *requests: TimerRequest) -> None:
        self.requests: queue.SimpleQueue[TimerRequest] = queue.SimpleQueue()
        for request in requests:
            self.requests.put(request)

    def size(self) -> int:
        return self.requests.qsize()

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        found = []
        try:
            for _ in range(size):
                found.append(self.requests.get(timeout=timeout))
        except queue.Empty:
            pass
        return found


class WakingQueue(UserQueue):
    """The same with a descriptor."""

    def __init__(self, *requests: TimerRequest) -> None:
        super().__init__(*requests)
        self._descriptor = os.eventfd(len(requests), os.EFD_NONBLOCK)

    def put(self, request: TimerRequest) -> None:
        self.requests.put(request)
        os.eventfd_write(self._descriptor, 1)

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass
        return super().get(min(size, self.size()), timeout)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


class SlowQueue(RequestQueue):
    """Counts all its requests at once, and gives one at a time."""

    def __init__(self, *requests: TimerRequest, lost: int = 0) -> None:
        self.requests, self.lost, self.waits = list(requests), lost, 0

    def size(self) -> int:
        return len(self.requests) + self.lost

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        if not self.requests:
            self.waits += timeout > 0
        return [self.requests.pop(0)] if self.requests else []
