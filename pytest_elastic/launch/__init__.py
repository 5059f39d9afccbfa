"""The ranks of one test (`RankGroup`): who makes them (`Launcher`), what they are told, how they end."""

from pytest_elastic.launch._artifacts import RECORDING, Artifacts, forget, name_of, shorter, write_index
from pytest_elastic.launch._clean import CleanZygote, Collected, ZygoteStart
from pytest_elastic.launch._debugger import RankTerminal, Terminal
from pytest_elastic.launch._elastic import Elastic
from pytest_elastic.launch._group_plan import LIVE as LIVE
from pytest_elastic.launch._group_plan import Answers, Launcher, Plan
from pytest_elastic.launch._hang_detector import HangDetector
from pytest_elastic.launch._hang_report import explain, keep_trace
from pytest_elastic.launch._launchers import START_METHODS, Here, Launchers, Source, StartMethod
from pytest_elastic.launch._machines import UNREACHABLE as UNREACHABLE
from pytest_elastic.launch._machines import Machines as Machines
from pytest_elastic.launch._outcomes import ends_of, expected_but_alive, leak_text, log_sections, of_timeout
from pytest_elastic.launch._outcomes import unclean_ends as unclean_ends
from pytest_elastic.launch._rank import (
    DUMP_SIGNAL,
    Bye,
    Hello,
    RandomStates,
    RankJob,
    RankProcess,
    current_world,
    is_rank,
    raises_on_ranks,
)
from pytest_elastic.launch._ranks import GRACE, RankGroup
from pytest_elastic.launch._rendezvous import Rendezvous, connect, keep_alive
from pytest_elastic.launch._spawn import (
    FreshInterpreters,
    Session,
    interpreter_options,
    measure,
    measured,
    start_of_this_interpreter,
)
from pytest_elastic.launch._stacks import RankStacks
from pytest_elastic.launch._succession import Succession
from pytest_elastic.launch._surroundings import Surroundings
from pytest_elastic.launch._world import World
from pytest_elastic.multiprocessing import Descriptor

__all__ = [
    "DUMP_SIGNAL", "GRACE", "START_METHODS", "Answers", "Bye", "Descriptor", "Elastic",
    "FreshInterpreters",
    "HangDetector", "Hello", "Here", "Launcher", "Launchers", "Plan", "RankGroup", "RankJob",
    "RankProcess", "RankStacks", "RankTerminal", "Session", "Source", "StartMethod", "Surroundings",
    "Terminal", "World",
    "current_world", "is_rank", "raises_on_ranks",
]  # fmt: skip
