"""Exit codes in words."""

from __future__ import annotations

import signal


def describe_exit(exitcode: int) -> str:
    """An exit code in words: "died by SIGSEGV", "exited with code 3"."""
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        return f"died by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"died by signal {-exitcode}"
