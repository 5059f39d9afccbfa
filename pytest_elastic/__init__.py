"""Test code that runs on many ranks the way you test the rest: with pytest.

The map, from the bottom up; a part imports only parts above it in this list:

* `errors`, `clock`, `events`, `logging`: the words.
* `store`: one pure state machine and its carriers (threads, processes), `get_all`, `synchronize`, `barrier`.
* `timer`: expiring timers that kill the rank that hangs.
* `hang`: who waits for whom, and what that and the stacks say of a hang.
* `multiprocessing`: groups of processes (`PContext`), their logs, their end.
* `report`: how ranks ended, the verdict on a test, and its picture.
* `faults`: fault plans: what shall go wrong, and when.
* `simulator`: rank functions under every schedule: find a hang, replay it, prove that there is none.
* `launch`: the ranks of one test: the zygote, fresh interpreters, the group.
* `replays`: recordings and tokens of runs on real ranks, and their order forced again.
* `strategies`: schedules, faults, keys and values for hypothesis.
* `plugin`: the door to pytest.  `testing` and `stateful`: the doors for suites of stores and launchers.

The names that most users want are here as well; each loads its part when it is first used.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pytest_elastic.errors import DistStoreError as DistStoreError
    from pytest_elastic.errors import RankDiedError as RankDiedError
    from pytest_elastic.launch import Elastic as Elastic
    from pytest_elastic.launch import World as World
    from pytest_elastic.launch import current_world as current_world
    from pytest_elastic.multiprocessing import DefaultLogsSpecs as DefaultLogsSpecs
    from pytest_elastic.multiprocessing import PContext as PContext
    from pytest_elastic.multiprocessing import Std as Std
    from pytest_elastic.multiprocessing import start_processes as start_processes
    from pytest_elastic.simulator import explore as explore
    from pytest_elastic.simulator import prove as prove
    from pytest_elastic.simulator import replay as replay
    from pytest_elastic.simulator import simulate as simulate
    from pytest_elastic.store import HashStore as HashStore
    from pytest_elastic.store import MockStore as MockStore
    from pytest_elastic.store import Store as Store
    from pytest_elastic.testing import check_store as check_store
    from pytest_elastic.timer import expires as expires

_PARTS = {
    "errors": ("DistStoreError", "RankDiedError"),
    "launch": ("Elastic", "World", "current_world"),
    "multiprocessing": ("DefaultLogsSpecs", "PContext", "Std", "start_processes"),
    "simulator": ("explore", "prove", "replay", "simulate"),
    "store": ("HashStore", "MockStore", "Store"),
    "testing": ("check_store",),
    "timer": ("expires",),
}
_HOME = {name: part for part, names in _PARTS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
