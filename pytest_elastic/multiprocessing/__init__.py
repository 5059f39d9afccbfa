"""Process groups that run one function or program per rank: start, wait, logs, errors, stop.

The API is that of `torch.distributed.elastic.multiprocessing`: code written for it runs after replacing the
import path.  Torch is not needed.  `start_processes` starts a group and returns its `PContext`; `errors`,
`redirects` and `tail_log` are modules of their own.

    def train(rank):
        return rank * 10

    context = start_processes("trainer", train, {0: (0,), 1: (1,)}, {0: {}, 1: {}}, log_dir)
    result = context.wait()
    assert not result.is_failed() and result.return_values == {0: 0, 1: 10}
"""

from pytest_elastic.multiprocessing._binaries import SubprocessContext, find_program
from pytest_elastic.multiprocessing._channel import Channel
from pytest_elastic.multiprocessing._context import START_LIMIT, PContext, RunProcsResult
from pytest_elastic.multiprocessing._file_watcher import Inotify
from pytest_elastic.multiprocessing._functions import MultiprocessContext, call_opened
from pytest_elastic.multiprocessing._group import Group
from pytest_elastic.multiprocessing._guardian import (
    DYING_LIMIT,
    RunRank,
    become_caretaker,
    exit_now,
    open_streams,
    set_environment,
)
from pytest_elastic.multiprocessing._job_control import Foreground, wait_for_foreground
from pytest_elastic.multiprocessing._logs import DefaultLogsSpecs, LogsDest, LogsSpecs
from pytest_elastic.multiprocessing._messages import Ended, RankExited, RankStart

from pytest_elastic.multiprocessing._messages import Signal, Started, StartFailed, Stop  # isort: skip
from pytest_elastic.multiprocessing._output_times import OutputTimes
from pytest_elastic.multiprocessing._parcel import Descriptor, Parcel, parcel_of_process

from pytest_elastic.multiprocessing._parcel import packed, read_parcel, receive_parcel, unpacking  # isort: skip
from pytest_elastic.multiprocessing._rankside import copies_of, end_well, exit_code

from pytest_elastic.multiprocessing._rankside import forget_launcher, lead, let_go  # isort: skip
from pytest_elastic.multiprocessing._results import Left, RankChannels, Returned, load_call
from pytest_elastic.multiprocessing._run_arguments import LogPlan, as_arguments
from pytest_elastic.multiprocessing._shared import do_job, started_group
from pytest_elastic.multiprocessing._signals import SignalException
from pytest_elastic.multiprocessing._sink import Destination
from pytest_elastic.multiprocessing._start import start_processes
from pytest_elastic.multiprocessing._std import IS_WINDOWS, Std, to_map
from pytest_elastic.multiprocessing._stop import SWEEP_LIMIT, sweep
from pytest_elastic.multiprocessing._zygote import CHANNEL, Zygote, serve, watch_parent
from pytest_elastic.multiprocessing.errors import ProcessFailure
from pytest_elastic.multiprocessing.tail_log import TailLog, tail_logfile

__all__ = [
    "IS_WINDOWS", "DefaultLogsSpecs", "LogsDest", "LogsSpecs", "MultiprocessContext", "PContext",
    "ProcessFailure", "RunProcsResult", "SignalException", "Std", "SubprocessContext", "TailLog",
    "start_processes", "tail_logfile", "to_map",
]  # fmt: skip
