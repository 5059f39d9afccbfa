"""Processes that another launcher started (torchrun, mpirun, srun, Ray): each starts one rank of ours.

*Theory of operation.*  Under `mpirun -n 4 pytest` four processes run pytest and collect the same tests.  That
of rank 0 runs the session, as it would alone; the others are its *agents*.  An agent forks a zygote of its
own, connects to rank 0, and from then on starts the rank of its number when it is told to, in a process of
its own: a rank that crashes or hangs costs its test, and neither the agent nor the session.

`_meeting_point` brings them together, `_agents` is rank 0's side, `_agent` that of all others.

With Ray it is pytest that asks for the processes, one on a node for each rank: its own is no rank, and all
others are agents.  `_ray_cluster` is its side, `_ray_driver` the process that speaks to Ray.  `RayContext`
has functions or programs run in such processes, without pytest.
"""

from pytest_elastic.external._agent import Agent
from pytest_elastic.external._agents import Agents
from pytest_elastic.external._meeting_point import ExternalError, Guest, Host, Place, meeting_point
from pytest_elastic.external._orders import AGENT, QUESTIONS, Join
from pytest_elastic.external._ray_cluster import RayCluster, RayHost, lacking
from pytest_elastic.external._ray_context import RayContext, serve
from pytest_elastic.external._ray_driver import Wish

__all__ = [
    "AGENT",
    "QUESTIONS",
    "Agent",
    "Agents",
    "ExternalError",
    "Guest",
    "Host",
    "Join",
    "Place",
    "RayCluster",
    "RayContext",
    "RayHost",
    "Wish",
    "lacking",
    "meeting_point",
    "serve",
]
