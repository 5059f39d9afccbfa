"""The use that the local timers are for, as torch's example shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_odd_ranks_live_and_even_ones_are_killed(start_method: str) -> None:
    """Whatever the processes are started by."""
    script = Path(__file__).with_name("example.py")
    done = subprocess.run([sys.executable, script, start_method], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
