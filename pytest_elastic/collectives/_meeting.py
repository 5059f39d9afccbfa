"""Meetings over the store: the members of a group compare their calls, and pass on what they carry."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_elastic.clock import SYSTEM_CLOCK
from pytest_elastic.collectives._rank_context import RankContext
from pytest_elastic.errors import (
    CollectiveMismatch,
    CollectiveTimeout,
    DistBackendError,
    DistError,
    DistStoreError,
)
from pytest_elastic.store import as_torchs, detail_of

Answers = dict[int, tuple[bytes, bytes]]
"""Call and value of members, by their places."""


class Meeting:
    """One meeting, as one of its members goes to it.

    Args:
        name: `f"{group}#{number}"`.
        members: ranks of the product.
        index: this member's place.
        needs: the places of those whom it waits for.
        call: its own, as bytes.
        seconds: how long it waits.
    """

    def __init__(
        self,
        context: RankContext,
        name: str,
        members: Sequence[int],
        index: int,
        needs: Sequence[int],
        call: bytes,
    ) -> None:
        self.name, self.members, self.index, self.needs, self.call = name, members, index, needs, call
        self._store, self._rank = context.store, context.rank

    def post(self, value: bytes = b"") -> None:
        """Come without waiting.

        Raises:
            CollectiveMismatch: another member has called something else.
        """
        __tracebackhide__ = True
        try:
            self._store.post(self.name, len(self.members), self.index, self.call, value)
            return
        except DistBackendError as error:
            failure = self._own(error)
        raise failure  # Here, so that what the caller handles meanwhile is all that it came of.

    def meet(self, seconds: float, value: bytes | None = None) -> Answers:
        """As `wait`; what the others gave, by their places."""
        __tracebackhide__ = True
        return self.answers(self.wait(seconds, value))

    def answers(self, found: Sequence[bytes]) -> Answers:
        """What `wait` has found, by their places."""
        calls = iter(found)
        return dict(zip(self.needs, zip(calls, calls, strict=True), strict=True))

    def wait(self, seconds: float, value: bytes | None = None) -> Sequence[bytes]:
        """Come with a value, or after a `post` without one; wait for those who are needed.

        Returns:
            A call and a value of each, in the order of `needs`.

        Raises:
            CollectiveMismatch: another member has called something else.
            CollectiveTimeout: some did not come in time.
        """
        __tracebackhide__ = True
        index, given = (-1, (b"", b"")) if value is None else (self.index, (self.call, value))
        began = SYSTEM_CLOCK.monotonic()
        try:
            found: Sequence[bytes] = self._store.meet(
                self.name, len(self.members), index, self.needs, given, seconds
            )
            return found
        except DistBackendError as error:
            failure = self._own(error)
        except DistStoreError as error:
            failure = self._own(self.timeout(error, SYSTEM_CLOCK.monotonic() - began))
        raise failure  # As in `post`.

    def timeout(self, error: DistStoreError, elapsed: float) -> DistBackendError | DistStoreError:
        """The error of a wait that has ended without some members."""
        absent = [int(key.rpartition("/")[2]) for key in error.keys if key.startswith(f"{self.name}/")]
        if not absent:
            return error
        group, number = self._identity
        calls = {self.members[self.index]: said(self.call)}
        ranks = sorted(self.members[index] for index in absent)
        return CollectiveTimeout(group, number, calls, ranks, elapsed)

    def _own(self, error: DistBackendError | DistStoreError) -> DistError:
        """The error as one of torch's, raised in this rank."""
        if isinstance(error, DistBackendError):
            error.rank = self._rank
        return as_torchs(error)

    @property
    def _identity(self) -> tuple[str, int]:
        """The group and the number; a step of a call has that call's."""
        group, _, number = self.name.rpartition("#")
        return group, int(number.partition("/")[0])

    def compare_sizes(self, answers: Answers) -> None:
        """Compare what members send each other with what they expect.

        Raises:
            CollectiveMismatch: the sizes of a pair differ.
        """
        __tracebackhide__ = True
        details = {index: detail_of(call) for index, (call, _) in answers.items()}
        details[self.index] = detail_of(self.call)
        for one, sender in details.items():
            for other, receiver in details.items():
                sends, expects = sender.get("sends"), receiver.get("expects")
                if sends and expects and sends[other] != expects[one]:
                    self._raise_sizes(one, other, sends[other], expects[one])

    def _raise_sizes(self, one: int, other: int, sent: int, expected: int) -> None:
        __tracebackhide__ = True
        group, number = self._identity
        sender, receiver = self.members[one], self.members[other]
        calls = {
            sender: f"sends {sent} elements to rank {receiver}",
            receiver: f"expects {expected} from rank {sender}",
        }
        if sender == receiver:
            calls = {sender: f"sends {sent} elements to itself and expects {expected}"}
        raise self._own(CollectiveMismatch(group, number, calls, sorted({sender, receiver}), "size"))


def said(call: bytes) -> str:
    """A call in words, with its place."""
    detail = detail_of(call)
    return f"{detail['text']} at {detail['place']}" if detail.get("place") else str(detail.get("text", ""))
