"""A clean zygote: a fresh interpreter that collected the tests of some files only, and forks ranks for them.

*Theory of operation.*  A file of tests that starts threads as it is imported keeps pytest's process from
being forked, and with it all other tests: a run of 200 files would pay for one.  So those others are
collected once more, by an interpreter that leaves that file out, and ranks are its forks.  This costs one
start, in a run that has such a file, and nothing in any other.

A library that starts threads is imported by whichever file comes first, which alone is blamed for it; where
that is left out, the next one does it.  So each file is a step of a `Succession`, and one that does harm is
left out, too."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from pytest_elastic.errors import GuardianError
from pytest_elastic.launch._spawn import SEED, Session, command_of, interpreter_options
from pytest_elastic.multiprocessing import CHANNEL, Channel, RankStart, Zygote
from pytest_elastic.pristine import os

_TAIL = 20  # Lines of what it wrote.


@dataclass(frozen=True, slots=True)
class ZygoteStart:
    """What a fresh interpreter is for that is to be a zygote.

    Attributes:
        launcher: pid of its parent.
        env: to be set once it has collected; `None` removes a name.
        descriptors: of the channel.
    """

    launcher: int
    env: dict[str, str | None]
    descriptors: dict[str, int] = field(default_factory=lambda: {"channel": CHANNEL})


@dataclass(frozen=True, slots=True)
class Collected:
    """The first word of such an interpreter.

    Attributes:
        tests: the ids of those that it has.
        apart: files that it left out in the end -> why.
        why: it cannot be forked, in words; `""` if it can.
    """

    tests: frozenset[str] = frozenset()
    apart: dict[str, str] = field(default_factory=dict)
    why: str = ""


class CleanZygote:
    """A launcher whose ranks are forks of an interpreter that has collected the files of a session.

    Blocks until they are collected.

    Args:
        directory: for its files; must exist.
        limit: seconds for it to come up.

    Attributes:
        zygote: as it is asked for groups of others than ranks.
        collected: what it has said.

    Raises:
        GuardianError: there is none; the text says why, without its own subject.
    """

    def __init__(self, session: Session, directory: Path, limit: float) -> None:
        log = directory / "log.txt"
        given = os.environ.get(SEED)
        seed = given or str(random.SystemRandom().randrange(1, 1 << 32))
        # By its name conftest files know that they do not run in pytest itself.
        environment = {**os.environ, SEED: seed, "PYTEST_ELASTIC_RANK": "0"}
        start = ZygoteStart(os.getpid(), {SEED: given, "PYTEST_ELASTIC_RANK": None})
        command = command_of(session, start, str(directory), interpreter_options())
        try:
            self.zygote = Zygote.execute(command, environment, str(log))
        except OSError as error:
            raise GuardianError(f"could not be started: {error}") from error
        try:
            said = self.zygote.hear(limit)
        except (EOFError, TimeoutError) as error:
            self.close()
            why = "ended" if isinstance(error, EOFError) else f"was not ready after {limit:g} s"
            text = log.read_text("utf-8", "replace") if log.exists() else ""
            tail = "\n".join(text.splitlines()[-_TAIL:])
            raise GuardianError(
                f"{why}; its log ends:\n{tail}" if tail else f"{why}; its log is empty"
            ) from None
        except BaseException:  # Ctrl-C.
            self.close()
            raise
        self.collected: Collected = said
        if self.collected.why:
            self.close()
            raise GuardianError(f"cannot be forked either: {self.collected.why}")

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Have a guardian start these ranks."""
        return self.zygote.start_group(starts)

    def stop(self) -> None:
        """`close`, at the end of a run that did not come to its tests."""
        self.close()

    def close(self) -> bool:
        """End the zygote, and every group of it; whether it ended by itself."""
        return self.zygote.close()
