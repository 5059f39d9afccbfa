"""The controller style: functions on ranks, for a test that itself stays in pytest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_elastic.errors import GroupTimeoutError
from pytest_elastic.launch._hang_report import Findings, find, give_up, lost_words
from pytest_elastic.launch._outcomes import ends_of_functions
from pytest_elastic.launch._ranks import GRACE, RankGroup
from pytest_elastic.launch._surroundings import Surroundings
from pytest_elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from pytest_elastic.report import RankEnd, stack_text
from pytest_elastic.wording import exit_text, read_exits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """What there is to report of a run of a function, if its error is the test's.

    Attributes:
        ends: of the ranks that failed, or were stopped for it.
    """

    error: BaseException
    group: RankGroup
    ends: list[RankEnd]
    findings: Findings


@dataclass
class Elastic:
    """Runs functions on ranks for a test that itself stays in pytest.

    A function is called as `fn(rank, world_size, *args)` in every rank; lambdas and local functions are
    sent by value.  In it, `pytest_elastic.launch.current_world()` is the group.

    Attributes:
        make: makes a group from a name, a size, surroundings and a payload; not started.
        default_nprocs, default_timeout: where a call does not say; seconds, 0 for none.
        groups: all that were started.
        failures: all that `run` has raised.
    """

    make: Callable[[str, int, Surroundings, Any], RankGroup] = field(repr=False)
    default_nprocs: int
    default_timeout: float
    groups: list[RankGroup] = field(default_factory=list, repr=False)
    failures: list[Failure] = field(default_factory=list, repr=False)

    def start(
        self,
        fn: Callable[..., Any],
        nprocs: int | None = None,
        args: tuple[Any, ...] | Mapping[int, tuple[Any, ...]] = (),
        env: dict[str, str] | None = None,
        surroundings: Surroundings | None = None,
    ) -> RankGroup:
        """Start `fn` on ranks; returns the group when every rank is ready.

        Args:
            args: of all, or rank -> those of one.  Queues, locks, connections and shared memory of
                `multiprocessing` may be among them, and descriptors as `Descriptor`; ranks then have their
                own, and the caller may close his.
            env: variables to add to the environment.
            surroundings: environment, directory, arguments and streams, where they are not those of pytest.

        Raises:
            StartError: some ranks did not come up.
            TypeError: `fn` or `args` cannot be sent.
            ValueError, NotADirectoryError: `nprocs`, `args` or `surroundings` cannot be.
        """
        size = self.default_nprocs if nprocs is None else nprocs
        if type(size) is not int or size < 1:
            raise ValueError(f"nprocs must be a whole number from 1, not {size!r}")
        if isinstance(args, Mapping) and set(args) != set(range(size)):
            raise ValueError(f"args by rank are for the ranks 0 to {size - 1}, not for {[*args]}")
        fixed = (surroundings or Surroundings()).fixed(size, env or {})
        group = self.make(getattr(fn, "__name__", "fn"), size, fixed, (fn, args))
        self.groups.append(group)
        group.start()
        return group

    def run(
        self,
        fn: Callable[..., T],
        nprocs: int | None = None,
        args: tuple[Any, ...] | Mapping[int, tuple[Any, ...]] = (),
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        expect: Mapping[int, int | str] | None = None,
    ) -> list[T]:
        """Run `fn` on ranks; its values in rank order.

        Args:
            args: see `start`.
            timeout: seconds from when the ranks are ready; the run's `--elastic-timeout` by default.
            expect: rank -> how it is to die, as in the marker: a signal's name, or an exit code, negative
                for a signal; its value is `None`.

        Raises:
            ValueError: `expect` says what cannot be.
            ChildFailedError: ranks failed, or did not die as expected; the text has every one's traceback.
            GroupTimeoutError: ranks did not finish in time; the text says where they stood.
        """
        __tracebackhide__ = True
        try:
            expected = read_exits(expect or {}, nprocs or self.default_nprocs)
        except ValueError as error:
            raise ValueError(f"elastic.run(expect={expect!r}): {error}") from None
        group = self.start(fn, nprocs, args, env)
        group.expect = expected
        limit = self.default_timeout if timeout is None else timeout
        try:
            # Nobody else has this group: while it runs nothing else happens here.
            result = group.wait_alone(limit or -1)
            if result is None:
                ranks = [rank for rank in group.pids() if rank not in group.group.exits]
                give_up(group, ranks)
                stacks = group.stacks_in_c(ranks)
                late_text = group.detector.endless or f"did not finish within {limit:g} s"
                ends = [RankEnd(rank, "hung", math.inf, late_text, stacks=stacks[rank]) for rank in ranks]
                places = [f"rank {rank}:\n{stack_text(found)}" for rank, found in stacks.items()]
                text = f"{len(ranks)} of {group.nprocs} ranks {late_text}"
                lost = lost_words(group, stacks.values())
                late = GroupTimeoutError(ranks, "\n".join([text, *places, *filter(None, [lost])]))
                raise self._explained(late, group, ends)
            failures = result.failures | _survivors(group)
            if failures:
                failed = ChildFailedError(group.name, failures)
                raise self._explained(failed, group, ends_of_functions(group, failures, result.stopped))
            return group.values()
        finally:
            group.close(timeout=GRACE)

    def _explained(self, error: BaseException, group: RankGroup, ends: list[RankEnd]) -> BaseException:
        """The error, with a note of what is known of a hang; remembered for the report of the test."""
        failed = [end for end in ends if end.kind != "stopped"]
        findings = find(group, failed)
        for _, text in findings.sections():
            error.add_note(f"\n{text}")
        self.failures.append(Failure(error, group, ends, findings))
        return error

    def close(self) -> None:
        """Stop what the test left open."""
        for group in self.groups:
            group.close(timeout=GRACE)


def _survivors(group: RankGroup) -> dict[int, ProcessFailure]:
    """Of the ranks that were to die, those that returned, as failures."""
    failures = {}
    for rank, code in group.expect.items():
        exited = group.group.exits.get(rank)
        if exited is not None and exited.exitcode == 0 != code:
            failures[rank] = ProcessFailure.observed(rank, group.pids()[rank], 0, "")
            failures[rank].message = f"rank {rank} returned, but was to be one that {exit_text(code)}"
    return failures
