"""Ranks as fresh interpreters: for runs in which forking is not safe.

Each rank executes Python anew and collects the same tests with the same arguments; that costs seconds, so
the plugin keeps such ranks for as many tests as they stay clean.
"""

from __future__ import annotations

import dataclasses
import sys

from pytest_elastic.launch._rank import RankJob
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._guardian import RankStart
from pytest_elastic.multiprocessing._zygote import Zygote
from pytest_elastic.pristine import json, os

VARIABLE = "PYTEST_ELASTIC_RANK"
_CODE = "import sys; sys.path[:] = {path!r}; import pytest; sys.exit(pytest.main({arguments!r}))"


class FreshInterpreters:
    """A launcher whose ranks are new interpreters that run pytest with these arguments.

    Args:
        arguments: of pytest.
        directory: where pytest was called.
        path: `sys.path` as pytest found it.
    """

    def __init__(self, arguments: list[str], directory: str, path: list[str]) -> None:
        self._arguments, self._directory, self._path = arguments, directory, path
        self._zygote = Zygote.spawn(__name__, "execute")

    def start_group(self, starts: list[RankStart]) -> Channel:
        """Have a guardian start these ranks."""
        return self._zygote.start_group([self._rewrite(start) for start in starts])

    def close(self) -> bool:
        """End the zygote, and every group of it; whether it ended by itself."""
        return self._zygote.close()

    def _rewrite(self, start: RankStart) -> RankStart:
        """The same rank by way of `execute`; the job goes along in the environment."""
        base = ["--basetemp", os.path.join(start.job.directory, "tmp")]
        code = _CODE.format(path=self._path, arguments=[*self._arguments, *base])
        job = json.dumps(dataclasses.asdict(start.job))
        order = ([sys.executable, "-c", code], self._directory)
        return dataclasses.replace(start, env={**start.env, VARIABLE: job}, job=order)


def execute(start: RankStart) -> int:
    """In the forked rank: become a fresh interpreter.  Does not return."""
    arguments, directory = start.job
    os.chdir(directory)
    for number in start.descriptors.values():
        os.set_inheritable(number, True)
    place = json.dumps({"rank": start.rank, "descriptors": start.descriptors})
    os.environ[VARIABLE + "_PLACE"] = place
    os.execv(arguments[0], arguments)


def start_of_this_interpreter() -> RankStart | None:
    """In the fresh interpreter: how this rank was started; `None` where this process is no such rank.

    The variables are taken out of the environment, so that no program of the rank believes to be one.
    """
    job, place = os.environ.pop(VARIABLE, None), os.environ.pop(VARIABLE + "_PLACE", None)
    if job is None or place is None:
        return None
    where = json.loads(place)
    for number in where["descriptors"].values():
        os.set_inheritable(number, False)
    env: dict[str, str | None] = dict(os.environ)
    return RankStart(where["rank"], env, "", "", RankJob(**json.loads(job)), where["descriptors"])
