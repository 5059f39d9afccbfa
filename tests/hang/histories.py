"""Histories of groups, written as steps and told as the events that a served store would tell.

A step is `(who, what, *arguments)`; `who` is a rank, or `(rank, thread)`.  The store's own steps go through a
`StoreState`, so that a history cannot say what a store would not do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pytest_elastic.events import (
    BarrierJoined,
    ClientLeft,
    CollectiveJoined,
    Event,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.store import StoreState, Waiter

Step = tuple[Any, ...]


class Group:
    """Ranks over one store; `events` is what happened so far."""

    def __init__(self, world_size: int, timeout: float = 300.0) -> None:
        self.world_size, self.timeout = world_size, timeout
        self.state = StoreState()
        self.events: list[Event] = []
        self.blocked: dict[int, Waiter] = {}
        self.numbers: Counter[Any] = Counter()
        self.meetings: dict[str, dict[int, str]] = {}
        self.taking: dict[int, list[str]] = {}
        self._at = 0.0

    def step(self, who: Any, what: str, *arguments: Any) -> list[Event]:
        """The events of one step; a dictionary at its end has named arguments."""
        named: dict[str, Any] = {}
        if arguments and isinstance(arguments[-1], dict):
            *arguments, named = arguments  # type: ignore[assignment]
        before = len(self.events)
        self._at += 1.0
        rank, thread = who if isinstance(who, tuple) else (who, 0)
        client = 1000 if rank is None else rank * 10 + thread
        act = getattr(self, f"do_{what}", None)
        if act is None:
            self.call(rank, client, what, *arguments)
        else:
            act(rank, client, *arguments, **named)
        return self.events[before:]

    def call(self, rank: Any, client: int, name: str, *arguments: Any, **declared: Any) -> Any:
        """One operation of the store."""
        assert client not in self.blocked, f"rank {rank} is blocked and cannot {name}"
        if name in ("set", "queue_push"):
            arguments = (arguments[0], b"x")
        elif name in ("multi_get", "wait", "check"):
            arguments = (list(arguments),)
        answer = self.state.apply((name, *arguments), client)
        keys = tuple(arguments[0]) if isinstance(arguments[0], list) else (arguments[0],)
        changed = answer == arguments[2] if name == "compare_set" else answer is not False
        self._tell(StoreCalled(self._at, rank, client, name, keys, changed))
        if name == "arrive":
            prefix = keys[0].removesuffix("/num_members")
            self._tell(BarrierJoined(self._at, rank, client, prefix, declared["world_size"], answer))
        if name == "barrier":
            count = int(self.state.apply(("get", f"{keys[0]}/num_members")))
            self._tell(BarrierJoined(self._at, rank, client, keys[0], arguments[1], count))
        if isinstance(answer, Waiter):
            self._block(rank, client, answer, declared)
        self._wake()
        return answer

    def do_barrier(self, rank: int, client: int, prefix: str, world_size: int | None = None) -> None:
        size = self.world_size if world_size is None else world_size
        count = self.call(rank, client, "arrive", f"{prefix}/num_members", rank, world_size=size)
        if count == size:
            self.call(rank, client, "set", f"{prefix}/last_member")
        self.call(rank, client, "wait", f"{prefix}/last_member")

    def do_join(self, rank: int, client: int, prefix: str) -> None:
        """Only the first request of a barrier."""
        self.call(rank, client, "arrive", f"{prefix}/num_members", rank, world_size=self.world_size)

    def do_barrier_of_store(self, rank: int, client: int, prefix: str) -> None:
        """The one operation that joins, releases and waits."""
        self.call(rank, client, "barrier", prefix, self.world_size)

    def do_count(self, rank: int, client: int, prefix: str) -> None:
        """An `add` to a key that may be a barrier's, by one who says nothing of a size."""
        count = self.call(rank, client, "add", f"{prefix}/num_members", 1)
        self._tell(BarrierJoined(self._at, rank, client, prefix, 0, count))

    def do_gather(self, rank: int, client: int, prefix: str) -> None:
        self.call(rank, client, "set", f"{prefix}{rank}")
        self.do_collect(rank, client, prefix)

    def do_collect(self, rank: int, client: int, prefix: str) -> None:
        """The second request of a gather."""
        ranks = range(self.world_size)
        self.call(rank, client, "multi_get", *[f"{prefix}{i}" for i in ranks], writers=tuple(ranks))

    def do_receive(self, rank: int, client: int, key: str, src: int) -> None:
        self.call(rank, client, "multi_get", key, writers=(src,))

    def do_try(self, rank: int, client: int, key: str) -> None:
        """A wait whose timeout the caller counts on."""
        self.call(rank, client, "wait", key, may_timeout=True)

    def do_times_out(self, rank: int, client: int) -> None:
        if self.taking.pop(client, None) is None:
            self.state.abandon(self.blocked.pop(client))
        self._tell(WaitEnded(self._at, rank, client, "timed out"))

    def do_leaves(self, rank: int, client: int) -> None:
        if client in self.blocked:
            self.state.abandon(self.blocked.pop(client))
            self._tell(WaitEnded(self._at, rank, client, "gone"))
        else:
            self._tell(ClientLeft(self._at, rank, client))

    def do_begins(self, rank: int, client: int, phase: str = "call") -> None:
        self._tell(PhaseBegan(self._at, rank, phase))

    def do_passes(self, rank: int, client: int, phase: str = "call") -> None:
        self._tell(PhaseEnded(self._at, rank, phase, "passed"))

    def do_fails(
        self, rank: int, client: int, text: str = "ValueError: boom", place: str = "t.py:41"
    ) -> None:
        self._tell(PhaseEnded(self._at, rank, "call", "failed", text, place))

    def do_exits(self, rank: int, client: int, code: int = 0) -> None:
        self._tell(RankExited(self._at, rank, code))

    def do_stands(self, rank: int, client: int, state: str, channel: str = "", peer: str = "") -> None:
        self._tell(RankStood(self._at, rank, state, channel, peer))

    # Process groups.

    def do_calls(self, rank: int, client: int, text: str, line: int = 10, **known: Any) -> None:
        """A synchronous collective, as `all_reduce(float32[4], SUM)`; `known` as in `issue`."""
        name, index, members = self.issue(rank, client, text, line, waits=True, **known)
        needs = known.get("needs") or [place for place in range(len(members)) if place != index]
        self._take(rank, client, name, needs, members)

    def do_issues(self, rank: int, client: int, text: str, line: int = 10, **known: Any) -> None:
        """An asynchronous one."""
        self.issue(rank, client, text, line, waits=False, **known)

    def do_awaits(self, rank: int, client: int, name: str, members: list[int]) -> None:
        """The wait for an asynchronous one."""
        self._take(rank, client, name, [i for i, one in enumerate(members) if one != rank], members)

    def issue(self, rank: int, client: int, text: str, line: int, waits: bool, **known: Any) -> Any:
        """One rank's call: its meeting's name, its index and the members.

        Args:
            known: `group` (`"world"`) and `members` (all ranks), `to` or `source` and `tag` of a message, `signature`,
                and fields of the event.
        """
        group, members = known.get("group", "world"), list(known.get("members", range(self.world_size)))
        peer = known.get("to", known.get("source"))
        if peer is not None:
            members = [rank, peer] if "to" in known else [peer, rank]
            source = "*" if peer < 0 else members[0]
            group = f"{group}:{source}>{members[1]},{known.get('tag', 0)}"
        number = self.numbers[rank, group]
        self.numbers[rank, group] += 1
        operation, _, inner = text.partition("(")
        reduction = next((one for one in ("SUM", "MAX") if one in inner), "")
        index = members.index(rank)
        signature = known.get("signature", "message" + inner.partition(",")[0] if peer is not None else text)
        shown = tuple(one if one == rank or not known.get("unknown") else -1 for one in members)
        event = CollectiveJoined(
            self._at, rank, client, group, number, shown, index, operation, text,
            signature, reduction=reduction, place=f"/src/train.py:{line}", waits=waits,
            sends=known.get("sends", ()), expects=known.get("expects", ()),
        )  # fmt: skip
        name = f"{group}#{number}"
        calls = self.meetings.setdefault(name, {})
        failed = any(one != signature for one in calls.values())
        calls[index] = signature
        key = f"{name}/{index}"
        self._tell(StoreCalled(self._at, rank, client, "meet" if waits else "post", (key,), not failed))
        self._tell(event)
        for other, lacks in list(self.taking.items()):
            if key in lacks:
                lacks.remove(key)
                if failed or not lacks:
                    del self.taking[other]
                    self._tell(WaitEnded(self._at, other // 10, other, "done"))
        return name, index, tuple(members)

    def _take(self, rank: int, client: int, name: str, needs: list[int], members: Any) -> None:
        calls = self.meetings[name]
        keys = [f"{name}/{place}" for place in needs]
        missing = [key for place, key in zip(needs, keys, strict=True) if place not in calls]
        if missing and len(set(calls.values())) == 1:
            self.taking[client] = missing
            known = not name.startswith("init ") and -1 not in members
            writers = tuple(members[place] for place in needs) if known else ()
            event = WaitBegan(
                self._at, rank, client, "meet", tuple(keys), tuple(missing), 1800.0, False, writers
            )
            self._tell(event)

    def _block(self, rank: int, client: int, waiter: Waiter, declared: dict[str, Any]) -> None:
        self.blocked[client] = waiter
        keys, missing = tuple(waiter.keys), self.state.missing(waiter)
        may, writers = declared.get("may_timeout", False), declared.get("writers", ())
        event = WaitBegan(self._at, rank, client, waiter.name, keys, missing, self.timeout, may, writers)
        self._tell(event)

    def _wake(self) -> None:
        for waiter in self.state.woken:
            client = int(str(waiter.client))
            del self.blocked[client]
            self._tell(WaitEnded(self._at, client // 10, client, "done"))
        self.state.woken.clear()

    def _tell(self, event: Event) -> None:
        self.events.append(event)


def events_of(world_size: int, steps: list[Step], timeout: float = 300.0) -> list[Event]:
    """The history of these steps."""
    group = Group(world_size, timeout)
    for step in steps:
        group.step(*step)
    return group.events
