"""Searches: what they find, what they prove, when they give up."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from pytest_elastic.errors import DistStoreError, UnfiredFaultError
from pytest_elastic.faults import kill, kill_points
from pytest_elastic.simulator import (
    Deadlock,
    HangUntilTimeout,
    Nondeterminism,
    RankFailed,
    Setting,
    Verdict,
    parse_token,
    replay,
)
from pytest_elastic.simulator._explore import NotExhaustedError, explore, prove, prove_kills
from pytest_elastic.simulator._portfolio import portfolio
from pytest_elastic.store import barrier
from simulator.corpus.barriers import atomic_counter, nonatomic_counter, prefix_reuse
from simulator.corpus.waits import lost_wakeup, two_windows
from simulator.programs import exchange


def token_of(error: BaseException) -> str:
    """The one in its notes."""
    return error.__notes__[-1].split("'")[1]


@pytest.mark.parametrize("strategy", ["auto", "dpor", "delays", *portfolio(1, 1)])
def test_every_strategy_finds(strategy: str) -> None:
    """A lost count needs one delay."""
    with pytest.raises(HangUntilTimeout):
        explore(nonatomic_counter, strategy=strategy)


@pytest.mark.parametrize("strategy", ["auto", *portfolio(1, 1)])
def test_the_same_seed_finds_the_same(strategy: str) -> None:
    """A search is repeated by its arguments."""
    tokens = set()
    for _ in range(3):
        with pytest.raises(HangUntilTimeout) as info:
            explore(nonatomic_counter, strategy=strategy, seed=7)
        tokens.add(token_of(info.value))
    assert len(tokens) == 1


def test_another_seed_searches_elsewhere() -> None:
    """Of eight seeds two differ."""
    tokens = set()
    for seed in range(8):
        with pytest.raises(RankFailed) as info:
            explore(two_windows, strategy="random", seed=seed, max_schedules=100_000)
        tokens.add(token_of(info.value).rsplit(".p", 1)[0])
    assert len(tokens) > 1


def test_the_token_replays_the_failure() -> None:
    """With the same verdict."""
    with pytest.raises(Verdict) as found:
        explore(nonatomic_counter)
    with pytest.raises(type(found.value)) as again:
        replay(nonatomic_counter, token_of(found.value))
    assert again.value.key == found.value.key
    assert len(parse_token(token_of(found.value)).delays) == 1


def test_a_search_that_sees_everything_is_a_proof() -> None:
    """And says so."""
    found = explore(atomic_counter)
    assert found.exhausted
    assert found.schedules == sum(found.tries.values())
    assert found.tries["default"] == 1


def test_a_space_that_is_too_big_is_sampled() -> None:
    """By the whole portfolio, in equal slices, to the budget's end."""

    def program(rank: int, world_size: int, store: Any) -> None:
        for _ in range(6):
            store.add("n", 1)

    found = explore(program, 4, max_schedules=300)
    assert found.schedules == 300
    assert not found.exhausted
    slices = [found.tries[name] for name in portfolio(1, 1)]
    assert min(slices) >= 5
    assert max(slices) - min(slices) <= 1


def test_a_budget_of_just_enough() -> None:
    """The last execution may be the last trace."""
    assert explore(exchange, 2, "dpor", max_schedules=4).exhausted
    assert not explore(exchange, 2, "dpor", max_schedules=3).exhausted


def test_an_unknown_strategy() -> None:
    """Is an error that names the known ones."""
    with pytest.raises(ValueError, match="auto, dpor, delays, random"):
        explore(exchange, strategy="luck")


def test_no_deadline_no_timeout() -> None:
    """Ranks that wait for ever are a deadlock."""

    def program(rank: int, world_size: int, store: Any) -> None:
        store.wait(["k"], math.inf)

    with pytest.raises(Deadlock):
        explore(program)


def test_prove() -> None:
    """3 ranks, 2 barriers: anybody may be the last at each."""
    certificate = prove(exchange, 3)
    assert certificate.exhausted
    assert (certificate.traces, certificate.executions) == (9, 13)
    assert certificate.operations == (8, 8, 8)  # Whoever comes last sets two keys.
    assert (
        str(certificate)
        == "all 9 traces of 3 ranks in 13 executions (latched store, virtual clock, no faults)"
    )


def test_prove_finds_what_is_wrong() -> None:
    """As `explore` does."""
    with pytest.raises(RankFailed, match="passed before everybody had written") as info:
        prove(prefix_reuse, 3)
    assert token_of(info.value).startswith("E1.3.l")


def test_prove_gives_up() -> None:
    """It never says that it has proved what it has not."""
    with pytest.raises(NotExhaustedError, match="nothing is proved: not all 4 traces") as info:
        prove(exchange, 3, max_executions=5)
    assert not info.value.certificate.exhausted
    assert 0 < info.value.share < 1


def test_prove_under_other_rules() -> None:
    """The certificate says which."""
    certificate = prove(exchange, 2, wake="level")
    assert "level store" in str(certificate)
    assert certificate.setting == Setting(2, "level")


def test_what_fails_under_level_only() -> None:
    """The waiter comes first, in all schedules that matter, and misses a key that comes and goes."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            store.barrier("b", 2)
            store.set("k", "1")
            store.delete_key("k")
        else:
            clone = store.clone()
            store.barrier("b", 2)
            clone.wait(["k"])

    with pytest.raises(HangUntilTimeout):
        prove(program, 2, wake="level")


def test_an_expiry_that_comes_too_early() -> None:
    """A timeout that never matters on the virtual clock does when the clock may run ahead."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            store.set("k", "1")
        else:
            store.wait(["k"], 1.0)

    prove(program, 2)
    with pytest.raises(RankFailed, match="missing keys: 'k'"):
        prove(program, 2, expiries=1)


def test_a_fault_that_never_happens() -> None:
    """Is an error; one that happens in some schedules is not."""
    with pytest.raises(UnfiredFaultError):
        explore(exchange, faults=kill(rank=0, op=99), may_timeout=True)

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 1 and not store.check(["k"]):
            store.set("late", "1")
        elif rank == 0:
            store.set("k", "1")

    prove(program, 2, faults=kill(rank=1, op=2))


def test_a_kill_in_a_proof() -> None:
    """Whoever waits for the victim hangs."""
    with pytest.raises(HangUntilTimeout):
        prove(exchange, 3, faults=kill(rank=1, op=2))


def meet(barriers: int, victims: list[int]) -> Callable[[int, int, Any], bool]:
    """A program that checks the barrier: nobody passes alone, and who times out knows whom to blame."""

    def program(rank: int, world_size: int, store: Any) -> bool:
        for i in range(barriers):
            store.set(f"came{i}/{rank}", "1")
            try:
                barrier(store, world_size, f"b{i}", 30.0, rank=rank, trace_timeout=1.0)
            except DistStoreError as error:
                blamed = error.missing_ranks  # type: ignore[attr-defined]
                assert blamed in ([], victims), f"{blamed} blamed for {victims}"
                return False
            assert store.check([f"came{i}/{r}" for r in range(world_size)]), "passed before everybody came"
        return True

    return program


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("barriers", [1, 2])
def test_the_barrier_is_proved(barriers: int, ranks: int) -> None:
    """In every schedule: nobody passes before all have come, nobody times out."""
    certificate = prove(meet(barriers, []), ranks)
    assert certificate.traces == ranks**barriers


@pytest.mark.parametrize(
    ("barriers", "ranks", "victims"),
    [
        (1, 2, [0, 1]),
        (2, 2, [0, 1]),
        (1, 3, [0, 1, 2]),
        (2, 3, [0, 1, 2]),
        (1, 4, [0, 1, 2, 3]),
        (2, 4, [0, 1, 2, 3]),
    ],
)
def test_the_barrier_is_proved_with_every_single_kill(barriers: int, ranks: int, victims: list[int]) -> None:
    """In every schedule: survivors pass together or time out, and never blame another survivor."""
    whole = prove(meet(barriers, []), ranks)
    for plan in kill_points({rank: whole.operations[rank] for rank in victims}):
        prove(meet(barriers, [plan.faults[0].rank or 0]), ranks, faults=plan, may_timeout=True)


def test_prove_kills() -> None:
    """A plan for each operation of each rank; a program that shrugs off timeouts survives them all."""

    def program(rank: int, world_size: int, store: Any) -> None:
        try:
            barrier(store, world_size, "b", 1.0)
        except DistStoreError:
            pass

    certificates = prove_kills(program, 2)
    assert list(map(str, certificates)) == ["K0@1", "K0@2", "K0@3", "K1@1", "K1@2", "K1@3"]
    assert all(certificate.exhausted for certificate in certificates.values())


def test_prove_kills_finds_the_point() -> None:
    """The token has the kill that breaks the program."""
    with pytest.raises(RankFailed, match="missing keys") as info:
        prove_kills(atomic_counter, 2)
    assert "+K0@" in token_of(info.value)


def test_what_is_not_deterministic() -> None:
    """Is told, not searched."""
    calls = iter(range(1000))

    def program(rank: int, world_size: int, store: Any) -> None:
        store.add("n", 1)
        store.add(f"k{next(calls)}", 1)
        store.add("n", 1)

    with pytest.raises(Nondeterminism):
        prove(program, 2)


def test_a_long_execution_counts_for_more() -> None:
    """A rank that polls makes executions of thousands of steps."""

    def program(rank: int, world_size: int, store: Any) -> None:
        if rank == 0:
            store.set("k", "1")
        while not store.check(["k"]):
            pass

    found = explore(program, 2, "pct2", max_schedules=100)
    assert 5 < found.schedules < 60


def test_a_search_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its replay does; and what was disabled before stays so."""
    with pytest.raises(RankFailed) as info:
        explore(prefix_reuse)
    assert caplog.records == []
    with pytest.raises(RankFailed):
        replay(prefix_reuse, token_of(info.value))
    assert "synchronises only once" in caplog.text
    assert logging.root.manager.disable == 0


def test_lost_wakeups_hang_in_one_of_two_traces() -> None:
    """`delete` before `wait`, or after it."""
    with pytest.raises(HangUntilTimeout):
        prove(lost_wakeup, 2)
