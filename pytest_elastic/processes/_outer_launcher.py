"""Detection of the launcher that started this process, by the variables that it sets for each of its ranks.

A sign must be sure: variables such as `SLURM_PROCID` are also set where one process runs alone, and a bare
`RANK` may be left over from a container.  Where several launchers have left signs, as for torchrun under
srun, the innermost counts: its sign is missing nearest above in the tree of processes.  The process where
it is missing is the launcher's own, the same for all ranks of this machine: they find each other by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_elastic.pristine import os
from pytest_elastic.processes._identity import environment, identify, parent

_OURS = "PYTEST_ELASTIC_RANK"  # A rank that we started has the variables of torch elastic, too.


@dataclass(frozen=True, slots=True)
class _Kind:
    """A launcher, and its variables.

    Attributes:
        name: in words.
        sign: the variable that nobody else sets.
        rank, size: of this process, and how many there are.
        local: how many of them are on this machine; may be missing.
        machines: on how many machines they are; likewise.
    """

    name: str
    sign: str
    rank: str
    size: str
    local: str
    machines: str = ""


_KINDS = (
    _Kind("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    _Kind(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Kind(
        "MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    _Kind("MPICH", "PMI_SIZE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    _Kind("srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "", "SLURM_STEP_NUM_NODES"),
)  # fmt: skip
_BARE = _Kind("a launcher", "RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
# What torchrun has told its processes of itself: ranks must not use it, since they are processes of ours.
OF_TORCHRUN = (
    "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "ROLE_NAME",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OuterLauncher:
    """A launcher that started this process as one of several, and this one's place among them.

    Attributes:
        name: of the launcher.
        rank: of this process; -1 in one that has asked the launcher for ranks, and is none.
        size: how many there are.
        key: its process on this machine, as a name that no other one has.
        attempt: which start of the same ranks this is, for launchers that start them again.
        spread: whether the ranks are on several machines.
        address: of rank 0's machine, as the launcher tells it; `""` where it does not.
        store: address of a store of torch's that the launcher serves to its ranks, `host:port`; likewise.
    """

    name: str
    rank: int
    size: int
    key: str
    attempt: str
    spread: bool = False
    address: str = ""
    store: str = ""


def outer_launcher(asked: str, variables: Mapping[str, str]) -> OuterLauncher | None:
    """The launcher that started this process as one of several; `None` where there is none.

    Args:
        asked: `auto` goes by sure signs, `external` takes a bare `RANK` and `WORLD_SIZE` as well, `local`
            asks for none.
        variables: the environment of this process.

    Raises:
        ValueError: `external` was asked for, and there is no sign at all; or what the launcher says of its
            ranks is contradictory.
    """
    if asked == "local" or _OURS in variables:
        return None
    kinds = [kind for kind in _KINDS if kind.sign in variables and _number(variables.get(kind.size)) > 1]
    if not kinds and asked == "external":
        kinds = [kind for kind in (*_KINDS, _BARE) if kind.rank in variables and kind.size in variables][:1]
        if not kinds:
            raise ValueError(
                "--elastic-launcher=external: no launcher has set RANK and WORLD_SIZE, or those of"
                " torchrun, mpirun or srun"
            )
    if not kinds:
        return None
    launchers = {kind: _where_it_is_missing(kind.sign) for kind in kinds}
    kind = min(kinds, key=lambda kind: launchers[kind][0])
    rank, size = _number(variables.get(kind.rank)), _number(variables.get(kind.size))
    if not 0 <= rank < size:
        raise ValueError(
            f"{kind.name} says that this is rank {variables.get(kind.rank)!r} of {variables.get(kind.size)!r}"
            f" ({kind.rank}, {kind.size}); a rank is a number from 0 to one less than their number"
        )
    local, machines = variables.get(kind.local, str(size)), variables.get(kind.machines, "1")
    spread = _number(local) != size or machines != "1"
    attempt, address = variables.get("TORCHELASTIC_RESTART_COUNT", "0"), variables.get("MASTER_ADDR", "")
    served = address and variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = f"{address}:{variables.get('MASTER_PORT')}" if served else ""
    return OuterLauncher(kind.name, rank, size, launchers[kind][1], attempt, spread, address, store)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else -1


def _where_it_is_missing(sign: str) -> tuple[int, str]:
    """How many processes above this one, and in which, the variable is not set any more."""
    depth, pid = 1, parent(os.getpid())
    while pid > 1:
        try:
            if sign.encode() not in environment(pid):
                break
        except OSError:  # Of another user, as the launcher of a cluster is.
            break
        depth, pid = depth + 1, parent(pid)
    found = identify(pid)
    return depth, str(pid) if found is None else f"{pid}-{found.started}"
