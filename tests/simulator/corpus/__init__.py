"""Hangs and races that happened to people, each cut down to a few store operations, with its repair.

A kernel's docstring says what went wrong, its twin's what makes it right.
"""

from simulator.corpus import barriers, leaders, times, waits
from simulator.corpus._kernel import Kernel

KERNELS = sorted(
    barriers.KERNELS + waits.KERNELS + leaders.KERNELS + times.KERNELS, key=lambda kernel: kernel.number
)

__all__ = ["KERNELS", "Kernel"]
