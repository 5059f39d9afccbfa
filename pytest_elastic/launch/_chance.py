"""The global random generators of a rank: seeds for those of `random` and numpy.

*Rule.* A rank seeds both anew when it starts, from the state that each had when the tests had been collected,
from the test and from its rank.  So no two ranks draw the same numbers, nor do two tests, as forks of one
state would; and who seeds while the tests are collected gets the same numbers in every run, whichever tests
run besides.  Fixtures and plugins that seed do so afterwards, and have the last word.  torch's generator goes
on from where it was, equal on all ranks: models that are built alike count on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from typing import Any

from pytest_elastic.pristine import pickle


class Chance:
    """The generators' states, as they are when this is made."""

    def __init__(self) -> None:
        # Now: Python gives `random` another state in each fork.
        self._states = {"random": pickle.dumps(random.getstate())}
        if numpy := _numpy():
            self._states["numpy"] = pickle.dumps(numpy.get_state(legacy=False))

    def seed(self, test: str, rank: int) -> None:
        """Seed the generators of this process, the rank's."""
        place = f"\n{rank}\n{test}".encode("utf-8", "surrogatepass")
        seeds = {name: hashlib.sha256(state + place).digest() for name, state in self._states.items()}
        random.seed(seeds["random"])
        if "numpy" in seeds:
            with contextlib.suppress(TypeError):  # Its user has put in a generator that takes no seeds.
                _numpy().seed(list(memoryview(seeds["numpy"]).cast("I")))


def _numpy() -> Any:
    return sys.modules.get("numpy.random")
