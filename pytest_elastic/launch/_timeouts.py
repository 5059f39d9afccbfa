"""Whether a rank failed of a wait that timed out, or of something else that came after it.

It did if a time-out of a store is the failure or in its chain (cause or context): so also where it was told
in other words, or where a `finally` failed besides.  An assertion is about what the test expects, whatever it
was made in.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from pytest_elastic.pristine import json

_TIMEOUT = re.compile(r"DistStoreError|[Tt]imed? ?out")  # Also as C++ tells of an error of ours.


def of_timeout(error: BaseException) -> bool:
    """Whether an exception is, or came of, a time-out."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(error, AssertionError):
        names = " ".join(kind.__name__ for kind in type(seen).__mro__)
        text = ""
        with suppress(Exception):  # Its text is the rank's own.
            text = str(seen)
        inner = seen.exceptions if isinstance(seen, BaseExceptionGroup) else ()
        if _TIMEOUT.search(f"{names} {text}") or any(map(of_timeout, inner)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def of_timeout_in(error_file: Path) -> bool | None:
    """The same for an exception that a rank's function has recorded; `None` where there is none."""
    try:
        trace = json.loads(error_file.read_text("utf-8"))["message"]["extraInfo"]["py_callstack"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    said = re.findall(r"^(?:[ +|]*\| )?([A-Za-z_][\w.]*(?:: .*)?)$", trace, re.MULTILINE)
    if not said:
        return None
    return not said[-1].startswith("AssertionError") and any(map(_TIMEOUT.search, said))
