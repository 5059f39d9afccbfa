"""Follow the log files of many ranks and copy their lines, each with a header, to one place.

*Theory of operation.*  A `TailLog` has one thread.  It sleeps until a file may have grown (`_file_watcher`),
takes one bounded piece of each such file (`_follow`) and writes the lines of all of them at once (`_sink`): a
flood in one file delays the others by a piece at most, memory does not grow with the backlog, and `dst` sees
whole lines only.  `stop` notes the sizes of the files, and returns when all up to there has been copied.

What goes wrong is kept and logged by `stop`, once for each file, for the filter and for `dst`; whatever can
go on goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Self

from pytest_elastic.clock import SYSTEM_CLOCK, to_seconds
from pytest_elastic.multiprocessing._file_watcher import Watcher
from pytest_elastic.multiprocessing._follow import LineFilter, Lines, LogFile
from pytest_elastic.multiprocessing._sink import Destination, Event, Sink, copy_pieces, drain
from pytest_elastic.pristine import threading

__all__ = ["TailLog", "tail_logfile"]

logger = logging.getLogger(__name__)

_STUCK = 5.0  # Seconds that one write may take when somebody waits for the end.
_LOOK_UP = 0.05


class TailLog:
    """Follower of growing log files: copies each line to `dst` as soon as it is complete, until `stop()`.

        tail = TailLog("trainer", {0: "0/stdout.log", 1: "1/stdout.log"}, sys.stdout).start()
        ...
        tail.stop()

    The files may appear late, be truncated and be replaced.  A line comes out as header, line and `\\n`; its
    bytes are taken as UTF-8, bad ones become U+FFFD.  Lines of one file keep their order.

    With `progbar_events`, a progress bar on the same terminal is asked to clear itself before lines are
    written: `trigger_clear` is set, `cleared` is awaited for at most 1 s, and `trigger_clear` is cleared when
    the lines are out.  The bar's side clears `cleared` and draws itself again when it sees that.

    The page's dialect gives `interval_sec` in fourth and `progbar_events` in fifth place.

    Safe to use from several threads.  In a forked child a tail does nothing, and must not be used.

    Args:
        name: begins the default header, `[{name}{rank}]:`.
        log_files: rank -> path.
        dst: a text stream; `None` to do nothing.
        log_line_prefixes: rank -> header in place of the default one.
        interval_sec: seconds between looks at a file that the kernel cannot watch.
        log_line_filter: called with each line, newline included; a true value lets it pass.
        progbar_events: `trigger_clear` and `cleared`, events of `threading` or `multiprocessing`.

    Raises:
        ValueError: `progbar_events` lacks a key; `interval_sec` is negative or NaN.
    """

    def __init__(
        self,
        name: str,
        log_files: Mapping[int, str],
        dst: Destination | None,
        log_line_prefixes: Mapping[int, str] | float | None = None,
        interval_sec: float | Mapping[str, Event] | None = 0.1,
        log_line_filter: LineFilter | None = None,
        progbar_events: Mapping[str, Event] | None = None,
    ) -> None:
        if isinstance(log_line_prefixes, int | float):
            if not isinstance(interval_sec, int | float):
                progbar_events = interval_sec
            log_line_prefixes, interval_sec = None, log_line_prefixes
        self._interval = to_seconds(interval_sec, "interval_sec")  # type: ignore[arg-type]
        if self._interval < 0:
            raise ValueError(f"interval_sec must not be negative, but it is {interval_sec}")
        self._name = name
        headers = {rank: f"[{name}{rank}]:" for rank in log_files} | dict(log_line_prefixes or {})
        self._files = [
            LogFile(rank, path, Lines(headers[rank], log_line_filter)) for rank, path in log_files.items()
        ]
        self._sink = Sink(dst, None, progbar_events) if dst else None
        self._lock = threading.RLock()
        self._watcher: Watcher | None = None
        self._stopping = self._stopped = False
        self._drained = threading.Event()
        self._thread = threading.current_thread()

    @property
    def _threadpool(self) -> SimpleNamespace:
        """What a published test of the API looks at; our thread needs no pool."""
        return SimpleNamespace(_shutdown=self._stopped)

    def start(self) -> Self:
        """Begin; a second call does nothing.

        Raises:
            RuntimeError: the tail was stopped.
            OSError: no descriptors are left for it.
        """
        with self._lock:
            if self._stopping:
                raise RuntimeError(f"the tail of {self._name} was stopped and cannot be started again")
            if self._watcher is not None or not self._files or self._sink is None:
                return self
            watcher = Watcher(self._files, self._interval)
            # A daemon: a tail that nobody stops must not keep the interpreter from ending.
            thread = threading.Thread(
                target=self._run, args=(watcher, self._sink), name=f"TailLog_{self._name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                watcher.deafen()
                watcher.close()
                raise
            self._watcher, self._thread = watcher, thread
        return self

    def stop(self) -> None:
        """Copy what the files hold now, and end; blocks for as long as `dst` takes to write that.

        A `dst` that holds one write for 5 s (a pipe that nobody reads) loses the rest.  What went wrong since
        the start is logged.  Idempotent, also before `start`.
        """
        with self._lock:
            self._stopping = True
            if self._watcher is not None and self._sink is not None and not self._stopped:
                self._watcher.wake()
                self._await_drained(self._sink)
            # Asked again: a signal handler may have stopped the tail while this thread was waiting.
            if not self._stopped:
                self._finish()
            self._stopped = True

    def stopped(self) -> bool:
        """Whether `stop()` has returned."""
        return self._stopped

    def _run(self, watcher: Watcher, sink: Sink) -> None:
        try:
            queue = list(watcher.look())
            while not (self._stopping or sink.closed):
                news = watcher.wait(block=not queue)
                queue = copy_pieces(dict.fromkeys([*queue, *news]), sink)
            drain(self._files, sink)
        finally:
            self._drained.set()
            watcher.deafen()

    def _await_drained(self, sink: Sink) -> None:
        while not self._drained.wait(_LOOK_UP):
            if SYSTEM_CLOCK.monotonic() - sink.writing_since > _STUCK:
                sink.give_up(f"it took nothing for {_STUCK:g} s; the files have the rest")
                return
        if self._thread is not threading.current_thread():  # Which `dst` itself may run in.
            self._thread.join()

    def _finish(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        errors: list[tuple[str, Exception | None]] = []
        for file in self._files:
            errors.append((f"{self._name}{file.rank}", file.error))
            errors.append((f"the filter of {self._name}{file.rank}", file.lines.filter_error))
        if self._sink is not None:
            errors.append((f"what {self._name} is written to", self._sink.error))
        for where, error in errors:
            if error is not None:
                logger.exception("error in the tail of %s: %s", where, type(error).__name__, exc_info=error)


def tail_logfile(
    header: str,
    file: str,
    dst: Destination,
    finished: Event,
    interval_sec: float,
    log_line_filter: LineFilter | None = None,
    lock: Any = None,
    progbar_events: Mapping[str, Event] | None = None,
) -> None:
    """Copy the lines of one file in this thread, until `finished` is set and the file's end is reached.

    The page's dialect gives `lock` in sixth and `progbar_events` in seventh place.

    Args:
        header: put before each line.
        file: its path; it may appear late.
        dst: a text stream.
        finished: an event of `threading` or `multiprocessing`.
        interval_sec: seconds between two looks at the file.
        log_line_filter: called with each line, newline included; a true value lets it pass.
        lock: held around each write.
        progbar_events: as for `TailLog`.

    Raises:
        Exception: the first error of the file (at once), of `dst` or of the filter (at the end).
    """
    if hasattr(log_line_filter, "acquire"):
        if lock is not None:
            progbar_events = lock
        log_line_filter, lock = None, log_line_filter
    log = LogFile(0, file, Lines(header, log_line_filter))
    sink = Sink(dst, lock, progbar_events)
    try:
        while log.error is None and not (finished.is_set() or sink.closed):
            log.look()
            if not copy_pieces([log], sink):
                finished.wait(interval_sec)
        drain([log], sink)
    finally:
        log.end()
    for error in (log.error, sink.error, log.lines.filter_error):
        if error is not None:
            raise error
