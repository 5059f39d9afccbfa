"""Every exception of the package: what happened, to which ranks, as attributes; all pickle.

The fields come first, the text is derived from them.  Who is to blame shows in the type: `MarkerError`
is the test's marker, `RankError` is the code that ran on a rank, `GuardianError` and `SurvivorsError` are
the machine or us, `DistError` and its kin are the store's (with torch's names and hierarchy).
"""

from __future__ import annotations

from typing import Any

from pytest_elastic.wording import name_ranks


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an error again without calling its constructor (whose signature differs from `args`)."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class _Pickles:
    """Lets an exception with a constructor of its own survive `pickle` with all its fields."""

    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ElasticError(_Pickles, Exception):
    """Base of what this package raises by itself."""


class GuardianError(ElasticError):
    """The process that answers for the ranks could not be started, or is gone."""

    def __init__(self, what: str, *, pid: int | None = None) -> None:
        self.what, self.pid = what, pid
        super().__init__(what if pid is None else f"{what} (pid {pid})")


class StartError(ElasticError):
    """Ranks did not come up; nothing of them is left.

    Attributes:
        ranks: which ones.
        cause: why, in words.
    """

    def __init__(self, ranks: list[int], cause: str) -> None:
        self.ranks, self.cause = ranks, cause
        super().__init__(f"{name_ranks(ranks)} did not start: {cause}")


class SurvivorsError(ElasticError):
    """Processes outlived SIGKILL (uninterruptible sleep, or another user's): the machine needs attention.

    Attributes:
        pids: process id -> command line.
        ranks: the ranks among them, ascending.
    """

    def __init__(self, pids: dict[int, str], ranks: list[int]) -> None:
        self.pids, self.ranks = pids, ranks
        names = ", ".join(f"{pid} ({command})" for pid, command in sorted(pids.items()))
        super().__init__(f"processes that survived SIGKILL: {names}")


class RankError(ElasticError):
    """Code on a rank ended with an error that cannot be rebuilt here.

    Attributes:
        rank: where.
        type_name: the original exception's type.
    """

    def __init__(self, rank: int, type_name: str, text: str) -> None:
        self.rank, self.type_name = rank, type_name
        super().__init__(text)


class FixtureElsewhereError(ElasticError, KeyError):
    """A hook in pytest's process asked for the value of a fixture that only the ranks have.

    Attributes:
        name: of the fixture.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)

    def __str__(self) -> str:
        return f"the value of the fixture {self.name!r} is in the ranks"


class DebuggerError(ElasticError):
    """A debugger was to open in a rank, and pytest has no terminal for it.

    Attributes:
        rank: where.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        super().__init__(f"rank {rank} cannot open a debugger: the standard input of pytest is no terminal")


class MarkerError(ElasticError):
    """An `elastic` marker says something that is not allowed.

    Attributes:
        where: `file:line` of the test.
    """

    def __init__(self, text: str, where: str = "") -> None:
        self.text, self.where = text, where
        super().__init__(f"{where}: {text}" if where else text)


class DistError(_Pickles, RuntimeError):
    """Base of the store's errors, as in torch."""


class DistStoreError(DistError):
    """An operation of a store failed or timed out.

    Attributes:
        keys: the keys that were missing, in the order asked; `()` if it was no timeout.
        timeout: seconds allowed, `None` if it was no timeout.
        elapsed: seconds waited, `None` if it was no timeout.
    """

    def __init__(
        self,
        *args: object,
        keys: tuple[str, ...] = (),
        timeout: float | None = None,
        elapsed: float | None = None,
    ) -> None:
        self.keys, self.timeout, self.elapsed = keys, timeout, elapsed
        super().__init__(*args)


class QueueEmptyError(DistStoreError):
    """A queue had no element and nobody wanted to wait."""


class DivergenceError(ElasticError):
    """A replay came to a point where a rank did something else than was recorded."""


class DistNetworkError(DistError):
    """The server of a store cannot be reached, went away, or broke the protocol."""


class DistBackendError(DistError):
    """A collective operation of a process group failed; base of the two below, with torch's name.

    Attributes:
        group: the group's name; of a message the pair, such as `"world:0>1"`.
        number: which call of the group it was, from 0.
        calls: what each rank called, and where, by rank.
        ranks: those that differ from most, or did not come.
        rank: the one in which it was raised; `None` where that is not known.
    """

    rank: int | None = None

    def __init__(self, group: str, number: int, calls: dict[int, str], ranks: list[int], text: str) -> None:
        self.group, self.number, self.calls, self.ranks = group, number, calls, ranks
        super().__init__(text)


class CollectiveMismatch(DistBackendError):
    """Ranks called different operations as the same one of their group.

    Attributes:
        ranks: those of the rarer call; where none is rarer, all.
        difference: `"operation"`, `"root"`, `"reduction"`, `"dtype"` or `"size"`.
    """

    def __init__(
        self, group: str, number: int, calls: dict[int, str], ranks: list[int], difference: str
    ) -> None:
        self.difference = difference
        alike: dict[str, list[int]] = {}
        for rank, call in sorted(calls.items(), key=lambda one: (one[0] not in ranks, one[0])):
            alike.setdefault(call, []).append(rank)
        said = "; ".join(f"{name_ranks(who)}: {call}" for call, who in alike.items())
        super().__init__(
            group, number, calls, ranks, f"call #{number} of group {group} has another {difference}: {said}"
        )

    @property
    def fields(self) -> list[Any]:
        """What `of` makes the error of, as JSON has it."""
        return [self.group, self.number, list(self.calls.items()), self.ranks, self.difference]

    @classmethod
    def of(cls, fields: list[Any]) -> CollectiveMismatch:
        """The error with these `fields`."""
        group, number, calls, ranks, difference = fields
        return cls(group, number, dict(calls), ranks, difference)


class CollectiveTimeout(DistBackendError):
    """Ranks did not come to a collective operation of their group, or can come no more.

    Attributes:
        ranks: the absent ones.
        elapsed: seconds waited.
    """

    def __init__(
        self,
        group: str,
        number: int,
        calls: dict[int, str],
        ranks: list[int],
        elapsed: float,
        why: str = "",
    ) -> None:
        self.elapsed = elapsed
        said = "; ".join(f"{name_ranks([rank])}: {call}" for rank, call in sorted(calls.items()))
        span = f" in {elapsed:.0f} s" if elapsed >= 1 else ""  # Else the store's clock has jumped.
        text = f"call #{number} of group {group}: {name_ranks(ranks)} did not come{span}{why and ': '}{why}"
        super().__init__(group, number, calls, ranks, f"{text}; {said}")


class GroupError(ElasticError):
    """The group as a whole did not do what its test needs; base of the three below.

    Attributes:
        ranks: which ranks it is about.
    """

    def __init__(self, ranks: list[int], text: str) -> None:
        self.ranks = ranks
        super().__init__(text)


class RankDiedError(GroupError):
    """Ranks ended without a report (a signal, `os._exit`), or not cleanly after it."""


class GroupTimeoutError(GroupError):
    """Ranks did not finish by the deadline."""


class PartialSkipError(GroupError):
    """Some ranks skipped the test and others did not."""


class FaultPlanError(ElasticError, ValueError):
    """A fault plan says something that is not allowed.

    Attributes:
        what: what is wrong.
        allowed: what would be right.
        where: the fault in the plan's text, `""` where the plan was made in Python.
    """

    def __init__(self, what: str, allowed: str, where: str = "") -> None:
        self.what, self.allowed, self.where = what, allowed, where
        super().__init__(
            f"fault plan{f', {where}' if where else ''}: {what} is not allowed; allowed: {allowed}"
        )


class UnfiredFaultError(ElasticError):
    """Planned faults never fired, so nothing was tested.

    Attributes:
        unfired: for each, the fault and what was seen of its trigger.
    """

    def __init__(self, unfired: list[tuple[str, str]]) -> None:
        self.unfired = unfired
        lines = [f"{fault} never fired: {story}" for fault, story in unfired]
        super().__init__("\n".join(["a planned fault did not happen", *lines]))
