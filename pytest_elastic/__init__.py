"""Tests that run on many ranks (processes), as a plugin of pytest; its parts are libraries, too.

The parts, from the bottom up.  A part imports only parts above it in this list:

* `errors`, `wording`, `events`: exceptions; the words for exits and ranks; records of what happened.
* `clock`, `logging`, `pristine`: time; loggers; standard modules as they were before tests patch them.
* `progress`: how far a search, or rounds of a test, are.
* `loop`: the event loop that a group's store, channels, timers and hang detector share.
* `processes`: the operating system: pids, signals, the process tree, threads, descriptors.
* `store`: the key-value store of the ranks: operations, server, clients, mocks, barriers.
* `timer`: expiring timers, which kill a rank whose block takes too long.
* `hang`: the wait graph of the ranks, the verdicts on a hang, the report of it.
* `collectives`: those of torch: compared over the store, carried by it, named when they do not fit.
* `multiprocessing`: groups of processes: start, guardian, logs, errors, stop.
* `report`: outcomes of ranks, the verdict merged from them, exporters of a failed test's files.
* `faults`: fault plans: kill, exit, stop, delay, drop, at a point of a run.
* `scheduling`: who does the next step, of simulated ranks and of real ones whose order is forced.
* `simulator`: rank functions under every schedule, without processes: `explore`, `prove`, `replay`.
* `launch`: the ranks of one test: start methods and their launchers, `World`, the hang detector.
* `external`: processes of torchrun, mpirun and the like, or in actors of Ray, each of which starts one rank.
* `adoption`: processes that tests start by `multiprocessing` become forks.
* `replays`: recordings and tokens of runs on real ranks, and the order that they force again.
* `strategies`: Hypothesis strategies for schedules, fault plans, world sizes, keys and values.
* `testing`, `stateful`: test suites for stores and for rank functions.
* `plugin`: options, markers, fixtures and hooks of pytest.

Where to change what:

* an operation of the store: `store/_operations.py`, a row;
* a start method: `launch/_launchers.py`, a row;
* a launcher that starts pytest, such as torchrun: `processes/_outer_launcher.py`, a row;
* a launcher that pytest starts ranks by: a `Launcher` in `launch`, and its start method;
* a kind of fault: `faults/_plan.py`; its effect on real ranks in `replays`, on simulated ones in `simulator`;
* a verdict on a hang: `hang/_diagnosis.py`, and its rule in `hang/_rules.py`;
* an exporter: `report/exporters.py`, a row;
* an option: `plugin/_options.py`, a row;
* another operating system: `processes`.

`CONTRIBUTING.md` has the steps.  The names that most users want are here as well; each loads its part when it
is first used.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pytest_elastic.errors import DistStoreError as DistStoreError
    from pytest_elastic.errors import RankDiedError as RankDiedError
    from pytest_elastic.launch import Elastic as Elastic
    from pytest_elastic.launch import World as World
    from pytest_elastic.launch import current_world as current_world
    from pytest_elastic.launch import is_rank as is_rank
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
    "launch": ("Elastic", "World", "current_world", "is_rank"),
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
