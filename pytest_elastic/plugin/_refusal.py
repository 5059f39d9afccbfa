"""Tests on ranks where there can be none: each says why, and all others run.

Nothing of the parts is imported here before the platform is known to have what they need.
"""

from __future__ import annotations

import sys

import pytest

from pytest_elastic.plugin._marker import fail_instead


def unable() -> str:
    """Why no test can run on ranks here, in words; `""` where they can."""
    why = f"this is {sys.platform}"
    if sys.platform == "linux":
        from pytest_elastic.processes import supported

        why = supported()
    return why and f"tests on ranks need Linux 5.3 or newer with /proc: {why}"


def refuse(wanted: list[pytest.Item], why: str, alone: bool) -> None:
    """Have the tests that want ranks fail with these words.

    Raises:
        pytest.UsageError: they are `alone` in the session.
    """
    if alone:
        raise pytest.UsageError(why)
    for item in wanted:
        fail_instead(item, why)
