"""The exhaustive search loses no trace of programs that meet: collectives, messages, calls that differ."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from pytest_elastic.errors import CollectiveMismatch
from pytest_elastic.simulator import RankFunction, Setting, prove, simulate
from simulator.oracle import SleepSets
from simulator.test_dpor import AllSchedules, Rounds, traces

KINDS = (
    ["meet", "post", "wait"],
    ["send", "post a send", "receive", "receive any"],
    ["meet", "post", "wait", "send", "post a send", "receive", "receive any"],
)


class Member:
    """One rank's part in the meetings of a group."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.others = [other for other in range(size) if other != rank]
        self.posted: list[str] = []
        self._counts: Counter[str] = Counter()

    def number(self, name: str) -> str:
        self._counts[name] += 1
        return f"{name}#{self._counts[name] - 1}"

    def do(self, what: str, peer: int, call: bytes) -> Any:
        store, me, given = self.store, self.rank, (call, b"%d" % self.rank)
        if what == "meet":
            return store.meet(self.number("g"), self.size, me, self.others, given)
        if what == "post":
            store.post(name := self.number("g"), self.size, me, *given)
            self.posted.append(name)
            return None
        if what == "wait":
            return store.meet(self.posted.pop(), self.size, -1, self.others) if self.posted else None
        if what == "send":
            return store.meet(self.number(f"g:{me}>{peer},0"), 2, 0, [1], given)
        if what == "post a send":
            return store.post(self.number(f"g:{me}>{peer},0"), 2, 0, *given)
        source = peer if what == "receive" else "*"
        return store.meet(self.number(f"g:{source}>{me},0"), 2, 1, [0], given)


def random_program(seed: int) -> tuple[RankFunction, Setting]:
    """A few meetings for each of a few ranks; calls are `x`, or seldom `y`."""
    chance = random.Random(seed)
    ranks, kinds = chance.choice([2, 3, 3]), chance.choice(KINDS)
    scripts = [
        [
            (chance.choice(kinds), chance.randrange(ranks), chance.choice([b"x", b"x", b"x", b"y"]))
            for _ in range(chance.randint(1, 3 if ranks == 2 else 2))
        ]
        for _ in range(ranks)
    ]

    def program(rank: int, world_size: int, store: Any) -> list[Any]:
        member, answers = Member(store, rank, world_size), []
        for step in scripts[rank]:
            try:
                answers.append(member.do(*step))
            except (RuntimeError, ValueError) as error:
                answers.append(str(error).partition(" ms")[0])
        return answers

    program.__doc__ = repr(scripts)
    wake = chance.choice(["latched", "level"])
    return program, Setting(ranks, wake=wake, expiries=chance.choice([0, 0, 1]), may_timeout=True)


@pytest.mark.parametrize("batch", range(4))
def test_nothing_is_lost_on_random_meetings(batch: int, rounds: Rounds) -> None:
    """The reduced search, the oracle and all schedules find the same traces, and one trace has one end."""
    for seed in range(batch * 30, batch * 30 + rounds(12, 30)):
        program, setting = random_program(seed)
        every = traces(program, setting, AllSchedules)
        assert traces(program, setting) == every, f"seed {seed}: {setting} {program.__doc__}"
        assert traces(program, setting, SleepSets) == every, f"seed {seed}: {setting} {program.__doc__}"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_calls_that_are_alike_commute(ranks: int) -> None:
    """Whether they wait or not."""

    def program(rank: int, world_size: int, store: Any) -> None:
        member = Member(store, rank, world_size)
        for what in ("meet", "post", "meet", "wait"):
            member.do(what, 0, b"x")

    assert prove(program, ranks).traces == 1


def test_messages_from_known_ranks_commute() -> None:
    """Those to one rank do not, since it could receive from any."""

    def round_about(rank: int, world_size: int, store: Any) -> None:
        member = Member(store, rank, world_size)
        member.do("post a send", (rank + 1) % world_size, b"x")
        member.do("receive", (rank - 1) % world_size, b"x")

    def to_one(rank: int, world_size: int, store: Any) -> list[Any] | None:
        member = Member(store, rank, world_size)
        if rank:
            return member.do("post a send", 0, b"x")
        return [member.do("receive any", 0, b"x")[1] for _ in range(world_size - 1)]

    assert prove(round_about, 3).traces == 1
    ends = traces(to_one, Setting(3)).values()
    assert len(set(ends)) == 2


def test_whoever_waits_gets_the_error_of_calls_that_differ() -> None:
    """Not as an answer; who comes later, too."""

    def program(rank: int, world_size: int, store: Any) -> str:
        with pytest.raises(CollectiveMismatch) as caught:
            Member(store, rank, world_size).do("meet", 0, b"y" if rank == 1 else b"x")
        return str(caught.value.ranks)

    assert simulate(program, ranks=3).check().results == ["[0, 1]", "[0, 1]", "[1]"]
