"""A deterministic simulator: rank functions over a simulated store, under every schedule that you ask for."""

from pytest_elastic.simulator._execution import Execution, Setting
from pytest_elastic.simulator._scheduler import Decision, Scheduler, Step
from pytest_elastic.simulator._verdict import (
    Deadlock,
    HangUntilTimeout,
    RankFailed,
    UncontrolledBlocking,
    Verdict,
)
from pytest_elastic.simulator._world import Simulation

__all__ = [
    "Deadlock",
    "Decision",
    "Execution",
    "HangUntilTimeout",
    "RankFailed",
    "Scheduler",
    "Setting",
    "Simulation",
    "Step",
    "UncontrolledBlocking",
    "Verdict",
]
