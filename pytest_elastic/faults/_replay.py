"""The order of a recording, forced again.

*Theory of operation.*  Each party has its own sequence of requests in the recording.  What it asks next is
compared with that when it comes, before its turn.  The request whose turn it is, is applied; it must block if
it did when recorded, and not if not.  A wait that had timed out does so when that is next.
"""

from __future__ import annotations

from collections import defaultdict, deque

from pytest_elastic.faults._forced import PATIENCE, ForcedStage
from pytest_elastic.faults._recording import Entry, Party, Recording, party_of
from pytest_elastic.store import Gate, Request

_SLOWER = 10  # How many times what it took when recorded a step may take.


class ReplayStage(ForcedStage):
    """Forces the order of a recording."""

    def __init__(self, recording: Recording, following: Gate, patience: float = PATIENCE) -> None:
        """Make one.

        Raises:
            ValueError: the beginning of the recording is missing.
        """
        if recording.lost:
            raise ValueError(f"the first {recording.lost} entries of the recording are missing")
        self._order = [one for one in recording.entries if one.begins or one.expires]
        super().__init__(len(self._order), following, patience)
        self._own: dict[Party, deque[Entry]] = defaultdict(deque)
        for entry in self._order:
            if entry.begins:
                self._own[entry.party].append(entry)

    def _expects(self, request: Request) -> bool:
        own = self._own[party_of(request)]
        if not own:
            return False
        if (own[0].name, own[0].keys) == (request.name, tuple(request.keys)):
            return True
        came = Entry(*party_of(request), "applied", request.name, tuple(request.keys))
        self.diverge(f"  came     {came}", request, str(own[0]))
        return False

    def _next(self) -> tuple[Party, str] | None:
        entry = self._order[self.done]
        return entry.party, str(entry)

    def _allowed(self) -> float:
        before = self._order[self.done - 1].at if self.done else 0.0
        return self._patience + _SLOWER * (self._order[self.done].at - before)

    def _step(self) -> bool:
        entry = self._order[self.done]
        waits = self._blocked.get(entry.party)
        if entry.expires:
            if waits is None:
                self.diverge("  which does not wait this time")
                return False
            return self._expire(waits, entry.how == "jumped")
        request = self._held.get(entry.party)
        if request is None:
            if waits is not None:
                self.diverge(f"  which still waits in {waits!r}", waits)
            return False
        self._own[entry.party].popleft()
        self._apply(request)
        blocked = self._blocked.get(entry.party) is request
        if entry.how != "called" and blocked != (entry.how == "blocked"):
            self.diverge(f"  came, and {'has to' if blocked else 'does not'} wait this time", request)
            return False
        return True
