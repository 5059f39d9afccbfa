"""What goes wrong on purpose: fault plans as data, and the matcher that says when each fault is due.

A plan is written in Python (`kill(rank=1, op=4) | delay(rank=0, key="a*", by=0.2)`) or as text
(`K1@4+D0@ka%2A=200ms`).  The simulator and real ranks ask the same `Watch`.
"""

from pytest_elastic.faults._lost import WRITES, lost_answer
from pytest_elastic.faults._plan import (
    Fault,
    FaultPlan,
    Trigger,
    delay,
    drop,
    exit,
    kill,
    kill_points,
    late_join,
    resume,
    server_gone,
    stop,
)
from pytest_elastic.faults._text import parse
from pytest_elastic.faults._watch import Watch

__all__ = [
    "WRITES",
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
    "lost_answer",
    "parse",
    "resume",
    "server_gone",
    "stop",
]
