"""Deterministic simulator: rank functions over a simulated store, under every schedule that you ask for.

* `explore` searches for a schedule that fails, `prove` runs every trace, `prove_kills` all with each kill.
* `simulate` runs one schedule and returns its `Execution`, whose `check()` raises a `Verdict`; `replay` runs
  the schedule of a token.
* `Simulation` runs many schedules, under any `Scheduler`.
* `point()` is a scheduling point of your own.
* `torch_ranks` makes a rank function of one that uses `torch.distributed`.
"""

from pytest_elastic.scheduling import (
    Cut,
    Decision,
    Delays,
    FollowingScheduler,
    Kind,
    Scheduler,
    SparseScheduler,
    Step,
    delays_of,
    ring_order,
)
from pytest_elastic.simulator._execution import Blocked, Execution, Setting
from pytest_elastic.simulator._explore import (
    Certificate,
    Exploration,
    NotExhaustedError,
    explore,
    prove,
    prove_kills,
    replay,
    simulate,
)
from pytest_elastic.simulator._failures import (
    Deadlock,
    HangUntilTimeout,
    Livelock,
    Nondeterminism,
    RankFailed,
    TimerExpired,
    UncontrolledBlocking,
    Verdict,
    compare,
)
from pytest_elastic.simulator._patches import point
from pytest_elastic.simulator._schedule import Schedule, TokenError, parse_token, schedule_of
from pytest_elastic.simulator._shrink import confirm, shrink
from pytest_elastic.simulator._simulation import RankFunction, Simulation
from pytest_elastic.simulator._torch_ranks import torch_ranks

__all__ = [
    "Blocked", "Certificate", "Cut", "Deadlock", "Decision", "Execution", "Exploration",
    "HangUntilTimeout", "Livelock", "Nondeterminism", "NotExhaustedError", "RankFailed", "Schedule",
    "Scheduler", "Setting", "Simulation", "SparseScheduler", "Step", "TimerExpired", "TokenError",
    "UncontrolledBlocking", "Verdict", "compare", "confirm", "explore", "parse_token", "point", "prove",
    "prove_kills", "replay", "schedule_of", "shrink", "simulate",
    "torch_ranks",
]  # fmt: skip
