"""A deterministic simulator: rank functions over a simulated store, under every schedule that you ask for.

* `explore` searches for a schedule that fails, `prove` runs all, `prove_kills` with each single kill.
* `simulate` runs one schedule and returns its `Execution`, whose `check()` raises a `Verdict`; `replay` runs
  a token's.
* `Simulation` runs many, under any `Scheduler`.
* `point()` is a scheduling point that you set yourself.
"""

from pytest_elastic.simulator._ambient import point
from pytest_elastic.simulator._execution import Blocked, Execution, Setting
from pytest_elastic.simulator._explore import (
    Certificate,
    Exploration,
    NotExhaustedError,
    explore,
    prove,
    prove_kills,
)
from pytest_elastic.simulator._judge import compare
from pytest_elastic.simulator._schedule import Schedule, TokenError, checksum, parse_token, schedule_of
from pytest_elastic.simulator._scheduler import (
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
from pytest_elastic.simulator._shrink import confirm, shrink
from pytest_elastic.simulator._simulate import replay, simulate
from pytest_elastic.simulator._verdict import (
    Deadlock,
    HangUntilTimeout,
    Livelock,
    Nondeterminism,
    RankFailed,
    TimerExpired,
    UncontrolledBlocking,
    Verdict,
)
from pytest_elastic.simulator._world import RankFunction, Simulation

__all__ = [
    "Blocked", "Certificate", "Cut", "Deadlock", "Decision", "Execution", "Exploration",
    "HangUntilTimeout", "Livelock", "Nondeterminism", "NotExhaustedError", "RankFailed", "Schedule",
    "Scheduler", "Setting", "Simulation", "SparseScheduler", "Step", "TimerExpired", "TokenError",
    "UncontrolledBlocking", "Verdict", "compare", "confirm", "explore", "parse_token", "point", "prove",
    "prove_kills", "replay", "schedule_of", "shrink", "simulate",
]  # fmt: skip
