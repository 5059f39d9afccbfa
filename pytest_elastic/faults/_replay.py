"""A recorded order on real ranks: every request is held until its turn.

*Theory of operation.*  Each party (a connection of a rank) has its own sequence of requests in the recording.
What it asks next is compared with that when it comes, before its turn: another operation or other keys are a
divergence, which is raised right there, in the rank.  The request whose turn it is, is applied; it must block
if it did when recorded, and not if not.  A wait ends by the write that ended it, or, where it had timed
out, when that is next in the recording; the machine's clock ends none.  At the end the gate stands open.

A replay never hangs: if the party whose turn it is has ended, or is blocked, or does not come within a time
that allows for ten times what it took when recorded, all requests that are held fail with the divergence.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.errors import DistStoreError, DivergenceError
from pytest_elastic.faults._recording import Entry, Party, Recording, party_of
from pytest_elastic.faults._stage import Stage
from pytest_elastic.store._gate import Ending, Gate, Request

PATIENCE = 10.0  # Seconds, beyond ten times what was recorded.


class ReplayStage(Stage):
    """Forces the order of a recording.

    Attributes:
        divergence: what went another way; `None` so far.
        done: how many of the recording's steps were taken; `steps` is their number.
    """

    def __init__(self, recording: Recording, following: Gate, patience: float = PATIENCE) -> None:
        """Make one.

        Raises:
            ValueError: the beginning of the recording is missing.
        """
        super().__init__(following)
        if recording.lost:
            raise ValueError(f"the first {recording.lost} entries of the recording are missing")
        self._order = [one for one in recording.entries if one.begins or one.how == "timed out"]
        self._patience = patience
        self.done = 0
        self.divergence: DivergenceError | None = None
        self._own: dict[Party, deque[Entry]] = defaultdict(deque)
        for entry in self._order:
            if entry.begins:
                self._own[entry.party].append(entry)
        self._held: dict[Party, Request] = {}
        self._late: list[Request] = []  # More than was recorded of their parties.
        self._blocked: dict[Party, Request] = {}
        self._gone: set[int] = set()
        self._moved = SYSTEM_CLOCK.monotonic()

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self._order)

    def asked(self, request: Request) -> None:
        party = party_of(request)
        own = self._own[party]
        if self.divergence is not None:
            self.keeper.fail(request, self.divergence)
        elif self._next is None:
            super().asked(request)
        elif not own:
            self._late.append(request)
        else:
            self._held[party] = request
            if (own[0].name, own[0].keys) != (request.name, tuple(request.keys)):
                came = Entry(*party, "applied", request.name, tuple(request.keys))
                self._diverge(f"came    {came}", own[0], request)
            self._go_on()

    def applied(self, request: Request, blocked: bool) -> None:
        if blocked:
            self._blocked[party_of(request)] = request
        super().applied(request, blocked)

    def ended(self, request: Request, how: Ending) -> None:
        party = party_of(request)
        if self._blocked.get(party) is request:
            del self._blocked[party]
        if self._held.get(party) is request:
            del self._held[party]
        super().ended(request, how)

    def left(self, label: Hashable) -> None:
        self._gone.add(label if isinstance(label, int) else -1)
        super().left(label)
        self._go_on()

    def due(self) -> float:
        entry = self._next
        if entry is None or self.divergence is not None or not self._held:
            return super().due()
        before = self._order[self.done - 1].at if self.done else 0.0
        return min(self._moved + self._patience + 10 * (entry.at - before), super().due())

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._next is not None and self.due() <= now:
            self._diverge(f"did not come for {now - self._moved:.1f} s", self._next)

    def check(self) -> None:
        """For the end of a replay in which nothing failed.

        Raises:
            DivergenceError: it diverged, or ended before the recording did.
        """
        if self.divergence is not None:
            raise self.divergence
        if self._next is not None:
            text = f"the replay ended after {self.done} of {self.steps} steps; the next one: {self._next}"
            raise DivergenceError(text)

    @property
    def _next(self) -> Entry | None:
        return self._order[self.done] if self.done < len(self._order) else None

    def _go_on(self) -> None:
        """Take the steps whose parties are there."""
        while self.divergence is None and (entry := self._next) is not None:
            if not (self._expire(entry) if entry.how == "timed out" else self._apply(entry)):
                return
            self.done += 1
            self._moved = SYSTEM_CLOCK.monotonic()
        if self.divergence is None:
            self._open()

    def _apply(self, entry: Entry) -> bool:
        """Whether the request was there and is applied."""
        request = self._held.pop(entry.party, None)
        if request is None:
            if entry.party in self._blocked:
                still = self._blocked[entry.party]
                self._diverge(f"still waits in {still!r}", entry, still)
            elif entry.rank in self._gone and self._held:
                self._diverge("has ended", entry)
            return False
        self._own[entry.party].popleft()
        request.timeless = True
        super().asked(request)
        blocked = entry.party in self._blocked
        if blocked != (entry.how == "blocked"):
            self._diverge("has to wait now" if blocked else "has not to wait now", entry)
            return False
        return True

    def _expire(self, entry: Entry) -> bool:
        """Whether the wait that timed out when recorded was there, and has timed out again."""
        request = self._blocked.get(entry.party)
        if request is None:
            self._diverge("does not wait, when recorded its wait timed out", entry)
            return False
        self.keeper.expire(request)
        return True

    def _open(self) -> None:
        """The recording is over: the machine's clock counts again, and nobody is held."""
        for request in list(self._blocked.values()):
            if request.timeless:
                self.keeper.time(request)
        late, self._late = self._late, []
        for request in late:
            super().asked(request)

    def _diverge(self, what: str, expected: Entry, first: Request | None = None) -> None:
        """Fail the request that diverged, and then all that are held or wait."""
        text = (
            f"the replay diverged at step {self.done + 1} of {self.steps}\n"
            f"  expected {expected}{' (which waited)' if expected.how == 'blocked' else ''}\n  {what}"
        )
        self.divergence = DivergenceError(text)
        others = [*self._held.values(), *self._late, *self._blocked.values()]
        error: Exception = self.divergence
        if first is not None:
            self.keeper.fail(first, error)
            error = DistStoreError(f"held for a replay that another rank has ended: {text}")  # It follows.
        for request in others:
            if request is not first:
                self.keeper.fail(request, error)
        self._held.clear()
        self._late.clear()
