"""Error files of failed ranks: a rank records its error, and its launcher reads it.

`record` wraps a rank's main function and writes the first uncaught exception, through an `ErrorHandler`,
to the file that `TORCHELASTIC_ERROR_FILE` names.  `ProcessFailure` holds what the launcher knows of a rank
that failed, that file included; `ChildFailedError` carries the failures of a whole run, root cause first.
"""

from pytest_elastic.multiprocessing.errors._failure import ChildFailedError, ProcessFailure
from pytest_elastic.multiprocessing.errors._record import ErrorHandler, get_error_handler, record

__all__ = ["ChildFailedError", "ErrorHandler", "ProcessFailure", "get_error_handler", "record"]
