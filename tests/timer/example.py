"""Eight processes of one start method, in turn healthy and stuck; run as a script by `test_example`."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from typing import Any

from pytest_elastic import timer

WORLD_SIZE = 8


def healthy(queue: Any) -> None:
    """Leave the block in time."""
    timer.configure(timer.LocalTimerClient(queue))
    with timer.expires(after=1):
        time.sleep(0.4)


def stuck(queue: Any) -> None:
    """Exceed it by far."""
    timer.configure(timer.LocalTimerClient(queue))
    with timer.expires(after=1):
        time.sleep(30)


def main(start_method: str) -> None:
    context: Any = multiprocessing.get_context(start_method)
    queue = context.Queue()
    server = timer.LocalTimerServer(queue, max_interval=0.01)
    server.start()
    bodies = [healthy if rank % 2 else stuck for rank in range(WORLD_SIZE)]
    processes = [context.Process(target=body, args=(queue,)) for body in bodies]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    server.stop()
    assert codes == [-signal.SIGKILL, 0] * (WORLD_SIZE // 2), codes


if __name__ == "__main__":
    main(sys.argv[1])
