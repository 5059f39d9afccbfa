"""Error recording in a rank: `record` wraps its main function, `ErrorHandler` writes the file.

*Theory of operation.*  The launcher names the file in `TORCHELASTIC_ERROR_FILE`; it is read when the error
happens, so that a rank may be told late.  A file appears whole or not at all: it is written beside its
place and renamed into it.  Recording is second to the error itself: whatever goes wrong on the way is a
warning, and the rank's own exception goes on.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import traceback
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.multiprocessing.errors._failure import NOT_AVAILABLE, ChildFailedError
from pytest_elastic.pristine import json, os

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ErrorHandler:
    """Writer of the error file that `TORCHELASTIC_ERROR_FILE` names; does nothing where it names none.

    Override `initialize` and `record_exception` to do more; give the instance to `record`.
    """

    def initialize(self) -> None:
        """Called before the wrapped function: prints stacks of all threads on a fatal signal."""
        try:
            faulthandler.enable(all_threads=True)
        except Exception as error:
            warn(f"cannot enable the fault handler: {text_of(error)}")

    def record_exception(self, e: BaseException) -> None:
        """Write the exception, its stack (causes included) and the time; a second one overwrites."""
        path = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if path:
            extra = {
                "py_callstack": printable("".join(traceback.format_exception(e))),
                "timestamp": str(int(SYSTEM_CLOCK.time())),
            }
            write_whole(path, json.dumps({"message": {"message": text_of(e), "extraInfo": extra}}))

    def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
        """Make a child's error file our own, with the child's exit code in it unless that is 0.

        Raises:
            OSError, ValueError: the child's file cannot be read, or is not JSON.
        """
        with open(rootcause_error_file, encoding="utf-8") as file:
            data = json.load(file)
        if error_code:
            self.override_error_code_in_rootcause_data(rootcause_error_file, data, error_code)
        path = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if not path:
            logger.error(
                "no error file of our own to copy %s to; it holds:\n%s",
                rootcause_error_file,
                json.dumps(data),
            )
            return
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                logger.warning("%s will be overwritten; it was:\n%s", path, file.read())
        write_whole(path, json.dumps(data))

    def override_error_code_in_rootcause_data(
        self, rootcause_error_file: str, rootcause_error: dict[str, Any], error_code: int = 0
    ) -> None:
        """Put the exit code into the data of a child's error file, in place (a text has no room)."""
        message = rootcause_error.get("message")
        if isinstance(message, dict):
            message["errorCode"] = error_code
        else:
            logger.warning("%s has no place for the exit code %s", rootcause_error_file, error_code)


def get_error_handler() -> ErrorHandler:
    """A new `ErrorHandler`."""
    return ErrorHandler()


def record(fn: Callable[_P, _R], error_handler: ErrorHandler | None = None) -> Callable[_P, _R | None]:
    """Decorator of a rank's main function: records the exception that ends it, for the launcher.

    >>> @record
    ... def main(rank):
    ...     return rank + 1
    >>> main(1)
    2

    An `Exception` is recorded and raised again, the same object.  `SystemExit` with code 0 returns `None`;
    any other, and all other `BaseException`s, pass unrecorded.  A `ChildFailedError` hands its root cause's
    file on.  Use it once per process.

    Args:
        fn: the function.
        error_handler: writes the file; `get_error_handler()` by default.
    """
    handler = get_error_handler() if error_handler is None else error_handler

    @functools.wraps(fn)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        handler.initialize()
        try:
            return fn(*args, **kwargs)
        except SystemExit as end:
            if end.code == 0:
                return None
            raise
        except ChildFailedError as error:
            forward_root_cause(handler, error)
            raise
        except Exception as error:
            warn_on_error(handler.record_exception, error)
            raise

    return wrapper


def forward_root_cause(handler: ErrorHandler, error: ChildFailedError) -> None:
    """Have the handler copy the error file of the rank that failed first."""
    rank, failure = error.get_first_failure()
    if failure.error_file == NOT_AVAILABLE:
        logger.info("rank %s left no error file; wrap its main function in record() to have one", rank)
    else:
        warn_on_error(handler.dump_error_file, failure.error_file, failure.exitcode)


def warn_on_error(action: Callable[..., None], *args: object) -> None:
    """Call the action; its error becomes a warning."""
    try:
        action(*args)
    except Exception as trouble:
        warn(f"cannot record the error: {text_of(trouble)}")


def write_whole(path: str, text: str) -> None:
    """Write the file whole or not at all; a failure is a warning."""
    try:
        path = os.path.realpath(path)
        if os.path.exists(path) and not os.path.isfile(path):
            # A device such as /dev/null is written to: renaming would put a file in its place.
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            replace_file(path, text)
    except OSError as error:
        warn(f"cannot write the error file: {text_of(error)}")


def replace_file(path: str, text: str) -> None:
    """Put a file with this text in the place of `path`, in one step."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def text_of(error: BaseException) -> str:
    """`Type: text`, for errors that cannot be printed too."""
    name = type(error).__name__
    try:
        return printable(f"{name}: {error}")
    except Exception as trouble:
        warn(f"{name} cannot be printed: its __str__ raised {type(trouble).__name__}")
        return f"{name}: <its __str__ raised {type(trouble).__name__}>"


def printable(text: str) -> str:
    """The text with lone surrogates escaped, so that it can be written anywhere."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def warn(text: str) -> None:
    """Warn of an error in the recording itself."""
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:  # Where warnings are errors, this one still must not hide the error it is about.
        logger.warning("%s", text)
