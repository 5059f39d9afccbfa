"""`Surroundings`: what ranks have of theirs, where that is not what a fork of pytest's process has.

Ranks begin as forks of a process that was set aside before the first test.  A harness whose processes were
started by the test has them begin with what the test has set by then: that is what this is for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_elastic.multiprocessing import set_environment
from pytest_elastic.pristine import os

Argv = Sequence[str] | Mapping[int, Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Surroundings of the ranks of a group.

        here = Surroundings(environ=os.environ, cwd=os.getcwd(), argv=sys.argv, output="inherit")
        group = elastic.start(train, nprocs=2, surroundings=here)

    Attributes:
        env: variables that are added to the environment, after those of ranks (`RANK` and the like).
        environ: the whole environment, but for what is added.
        cwd: the working directory.
        argv: `sys.argv`, of all or by rank.
        output: where stdout and stderr go: `"files"` of each rank, or `"inherit"`: what the descriptors 1
            and 2 of this process are at the start, so that `capfd` has it.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] | None = None
    cwd: str | os.PathLike[str] | None = None
    argv: Argv = None
    output: str = "files"

    def fixed(self, nprocs: int, env: Mapping[str, str]) -> Surroundings:
        """As they are now, for so many ranks, with these variables, too.

        Raises:
            ValueError, NotADirectoryError: something in it cannot be.
        """
        if self.output not in ("files", "inherit"):
            raise ValueError(f"Surroundings(output={self.output!r}): allowed are 'files' and 'inherit'")
        environ = None if self.environ is None else dict(self.environ)
        cwd = None if self.cwd is None else os.path.abspath(self.cwd)
        if cwd is not None and not os.path.isdir(cwd):
            raise NotADirectoryError(f"Surroundings(cwd={str(self.cwd)!r}): there is no such directory")
        argv = self.argv
        if argv is not None:
            by_rank = argv if isinstance(argv, Mapping) else dict.fromkeys(range(nprocs), argv)
            if set(by_rank) != set(range(nprocs)) or any(isinstance(one, str) for one in by_rank.values()):
                allowed = f"a list of texts, or one for each of the ranks 0 to {nprocs - 1}"
                raise ValueError(f"Surroundings(argv={argv!r}): allowed is {allowed}")
            argv = {rank: [*one] for rank, one in by_rank.items()}
        return replace(self, env={**self.env, **env}, environ=environ, cwd=cwd, argv=argv)

    def enter(self, rank: int, added: Mapping[str, str | None]) -> None:
        """In a rank: have them.

        Args:
            added: variables of this rank.
        """
        if self.environ is not None:
            os.environ.clear()
            set_environment({**self.environ, **added})
        if self.cwd is not None:
            os.chdir(self.cwd)
        if isinstance(self.argv, Mapping):
            sys.argv[:] = self.argv[rank]
