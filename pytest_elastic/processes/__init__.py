"""The operating system's processes: their identity, signals, tree, threads and descriptors.

The only part that knows Linux: /proc, pidfds, parent-death signals, subreapers, eventfds and memfds.
"""

from pytest_elastic.processes._activity import Family, Sight, sleeps, stand
from pytest_elastic.processes._descriptors import (
    Wakeup,
    descriptor_limit,
    memory_file,
    open_descriptors,
    path_of,
    provide_descriptors,
    raise_descriptor_limit,
    read_memory_file,
    restore_descriptor_limit,
    wait_for,
)
from pytest_elastic.processes._identity import (
    Process,
    command,
    dying,
    environment,
    identify,
    parent,
    state,
    this_machine,
    this_process,
)
from pytest_elastic.processes._openmp import pause_openmp
from pytest_elastic.processes._outer_launcher import OF_TORCHRUN, OuterLauncher, outer_launcher
from pytest_elastic.processes._pools import collapse_memory, ended_by_fork, lost_by_fork
from pytest_elastic.processes._threads import (
    SHARED,
    Thread,
    other_end,
    processor_time,
    thread_count,
    thread_numbers,
    threads,
)
from pytest_elastic.processes._tree import (
    become_subreaper,
    children,
    descendants,
    die_with_parent,
    fork,
    is_helper,
    left_by,
    replace_program,
    supported,
)
