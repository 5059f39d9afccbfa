"""Expiring timers: kill the rank whose block of code does not end in time, and no other.

    with expires(after=5):  # Seconds.
        exchange()

A *client* in the rank reports when a block begins and ends; a *server* in another process kills the rank
whose block did not end in time.  Two pairs of them are here: over a `multiprocessing` queue
(`LocalTimerClient`, `LocalTimerServer`) and over a named pipe (`FileTimerClient`, `FileTimerServer`).  Linux
only.
"""

from pytest_elastic.timer._file import FileTimerClient, FileTimerRequest, FileTimerServer
from pytest_elastic.timer._local import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue
from pytest_elastic.timer._rank_timers import (
    Expiry,
    PipeTimerClient,
    StreamTimerClient,
    TimerTable,
    open_channel,
)
from pytest_elastic.timer._requests import (
    Countdown,
    RequestQueue,
    TimerClient,
    TimerRequest,
    configure,
    configured,
    expires,
)
from pytest_elastic.timer._watchdog import TimerServer

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "LocalTimerClient",
    "LocalTimerServer",
    "MultiprocessingRequestQueue",
    "RequestQueue",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "configure",
    "expires",
]
