"""Works: what torch gives for an asynchronous collective, finished at its wait."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from torch._C._distributed_c10d import Work, _create_work_from_future  # type: ignore[attr-defined]
from torch.futures import Future

from pytest_elastic.errors import DistBackendError

_NONE = timedelta(0)

Finish = Callable[[float | None], None]


class PendingWork(Work):
    """A collective that was announced; whoever waits for it compares it with the others', and completes it.

    Args:
        finish: does the rest, in so many seconds (`None`: the group's timeout).
        inner: the real operation, if that has been started.
        result: the tensors that it fills.
        source: rank in the group that sends, -1 where that is not known yet.

    Attributes:
        over: whether it is completed, or has failed.
    """

    def __init__(self, finish: Finish, inner: Any, result: Any, source: int = -1) -> None:
        super().__init__()
        self._finish: Finish | None = finish
        self._inner, self._result = inner, result
        self.source, self.over, self._error = source, False, None

    def _meet(self, seconds: float | None = None) -> None:
        """Compare with the others' calls, once; a look that came too early does not count."""
        __tracebackhide__ = True
        if self._error is not None:
            raise self._error
        if self._finish is None:
            return
        try:
            self._finish(seconds)
        except BaseException as error:
            if seconds == 0 and _is_early(error):
                raise
            self._error = error  # type: ignore[assignment]
            self.over = True
            raise
        self._finish = None

    def wait(self, timeout: timedelta = _NONE) -> bool:
        __tracebackhide__ = True
        self._meet(timeout.total_seconds() or None)
        if not self.over and self._inner is not None:
            self._inner.wait(timeout)
        self.over = True
        return True

    def synchronize(self) -> None:
        __tracebackhide__ = True
        self.wait()

    def is_completed(self) -> bool:
        if not self.over:
            try:
                self._meet(0)
            except Exception as error:
                if not _is_early(error):
                    raise
                return False
            self.over = self._inner is None or self._inner.is_completed()
        return self.over

    def is_success(self) -> bool:
        return self.over and self._error is None

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        return self._result or []

    def source_rank(self) -> int:
        return self.source

    _source_rank = source_rank

    def get_future(self) -> Any:
        """The future of the real operation, else one that is done.

        A mismatch is raised here: torch's reducer would take an error in a future for a value, and crash.
        """
        __tracebackhide__ = True
        self._meet()
        if self._inner is not None:
            return self._inner.get_future()
        self.over = True
        done: Any = Future()
        done.set_result(self._result or [])
        return done


def _is_early(error: BaseException) -> bool:
    return isinstance(error, DistBackendError) and getattr(error, "elapsed", None) is not None


@cache
def done_work() -> Any:
    """A work that is over."""
    done: Any = Future()
    done.set_result([])
    return _create_work_from_future(done)
