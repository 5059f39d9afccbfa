"""From real ranks to the simulator and back: one order, the same failure on both sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_elastic.errors import DistStoreError, DivergenceError
from pytest_elastic.faults import drop, kill, stop
from pytest_elastic.replays import token_of
from pytest_elastic.replays.bridge import UnsuitedError, load, real_token, simulated
from pytest_elastic.simulator import HangUntilTimeout, schedule_of, shrink, simulate

SHARED = """
def wake(rank, world_size, store):
    store.set(f"here{rank}", "1")
    if rank == 0:
        store.get("ready")
        store.set("go", "1")
        store.delete_key("go")
    else:
        store.set("ready", "1")
        store.check(["here0"])
        store.wait(["go"], 0.2)
"""
TEST = (
    SHARED
    + """
from pytest_elastic.launch import current_world

def on_ranks(rank, world_size):
    wake(rank, world_size, current_world().store)

def test_it(elastic):
    elastic.run(on_ranks, nprocs=2)
"""
)
_NAMES = {}
exec(SHARED, _NAMES)
wake = _NAMES["wake"]


def failing():
    """An execution in which the signal is lost."""
    found = (simulate(wake, [(gap, 1)], ranks=2, may_timeout=True) for gap in range(9))
    return next(one for one in found if one.verdict is not None)


def test_a_failure_of_the_simulator_on_real_ranks(run):
    """Its token makes real ranks fail in the same way, with the same number of steps."""
    execution = failing()
    assert isinstance(execution.errors[1], DistStoreError)
    result = run(TEST, f"--elastic-replay={real_token(execution)}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*DistStoreError: Wait timeout*missing keys: 'go'*"])
    (steps,) = re.findall(r"^replayed (\d+) of \1 steps in their order$", result.stdout.str(), re.MULTILINE)
    assert int(steps) == len(execution.steps)


def test_a_passing_execution_on_real_ranks(run):
    """The other orders pass there, too."""
    execution = simulate(wake, (), ranks=2, may_timeout=True)
    assert execution.verdict is None
    run(TEST, f"--elastic-replay={real_token(execution)}").assert_outcomes(passed=1)


def test_a_failure_of_real_ranks_shrinks_in_the_simulator(run, pytester):
    """A failure of real ranks is one of the simulator, shrinks there, and comes back smaller."""
    found = run(TEST, "--elastic-stress=300", "--elastic-seed=3")
    found.assert_outcomes(failed=1)
    (path,) = re.findall(r"^recording: (\S+)$", found.stdout.str(), re.MULTILINE)
    (recording,) = load((pytester.path / path).read_text())
    execution = simulated(wake, recording)
    assert isinstance(execution.errors[1], DistStoreError)
    assert token_of([recording]).rpartition(".p")[0].startswith("R1.")
    smallest = shrink(wake, execution)
    assert len(smallest.delays) <= len(execution.delays)
    assert str(schedule_of(smallest)).startswith("E1.2.l.")
    again = run(TEST, f"--elastic-replay={real_token(smallest)}")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*DistStoreError: Wait timeout*missing keys: 'go'*"])


def test_a_hang_of_the_simulator_is_one_of_real_ranks(run):
    """What would hang until a timeout there is left to its timeout here."""
    found = simulate(wake, failing().delays, ranks=2)
    assert isinstance(found.verdict, HangUntilTimeout)
    result = run(TEST, f"--elastic-replay={real_token(found)}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*DistStoreError: Wait timeout*missing keys: 'go'*"])


def test_kills_and_lost_writes_travel(run):
    """Faults are part of the token."""
    execution = simulate(wake, (), kill(rank=0, op=3), ranks=2, may_timeout=True)
    token = real_token(execution)
    assert "+K0@3." in token
    result = run(TEST, f"--elastic-replay={token}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["rank 0 was killed by SIGKILL without a report (2 of 2 ranks failed)"])
    execution = simulate(wake, (), drop(rank=0, key="go"), ranks=2, may_timeout=True)
    assert "+P0@kgo." in real_token(execution)


def test_another_function_than_the_recorded_one_diverges():
    """What the ranks did when recorded must be what the function does."""
    (recording,) = load((Path(__file__).parents[1] / "replays/recordings_0_1/wake_up.jsonl").read_text())

    def same(rank, world_size, store):
        if rank == 0:
            store.get("ready")
            store.set("go", "1")
            store.delete_key("go")
        else:
            store.set("ready", "1")
            store.wait(["go"], 0.2)

    assert isinstance(simulated(same, recording).errors[1], DistStoreError)
    with pytest.raises(DivergenceError):
        simulated(wake, recording)


def test_some_executions_have_no_token_for_real_ranks():
    """Spans, and the store's other rule."""
    with pytest.raises(UnsuitedError):
        real_token(simulate(wake, (), stop(rank=0, op=1, seconds=1), ranks=2, may_timeout=True))
    with pytest.raises(UnsuitedError):
        real_token(simulate(wake, (), ranks=2, wake="level", may_timeout=True))
