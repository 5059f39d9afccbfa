"""Fault plans: what shall go wrong on which rank, and when.

A plan is written in Python (`kill(rank=1, op=4) | delay(rank=0, key="a*", by=0.2)`) or as text
(`K1@4+D0@ka%2A=200ms`).  The simulator and real ranks ask the same `Watch` when a fault is due.
"""

from pytest_elastic.faults._plan import (
    ENDS,
    SLOWS,
    Fault,
    FaultPlan,
    Trigger,
    delay,
    drop,
    exit,
    kill,
    kill_points,
    late_join,
    parse,
    resume,
    server_gone,
    stop,
)
from pytest_elastic.faults._watch import WRITES, Watch, lost_answer

__all__ = [
    "Fault",
    "FaultPlan",
    "Trigger",
    "Watch",
    "delay",
    "drop",
    "exit",
    "kill",
    "kill_points",
    "late_join",
    "parse",
    "resume",
    "server_gone",
    "stop",
]
