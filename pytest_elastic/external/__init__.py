"""Processes that another launcher started (torchrun, mpirun, srun): each of them starts one rank of ours.

*Theory of operation.*  Under `mpirun -n 4 pytest` four processes run pytest and collect the same tests.  That
of rank 0 runs the session, as it would alone; the others are its *agents*.  An agent forks a zygote of its
own, connects to rank 0, and from then on starts the rank of its number when it is told to, in a process of
its own: a rank that crashes or hangs costs its test, and neither the agent nor the session.

`_meeting_point` brings them together, `_agents` is rank 0's side, `_agent` that of all others.
"""

from pytest_elastic.external._agent import Agent
from pytest_elastic.external._agents import AGENT, QUESTIONS, Agents
from pytest_elastic.external._meeting_point import ExternalError, meeting_point
from pytest_elastic.external._orders import Join

__all__ = [
    "AGENT",
    "QUESTIONS",
    "Agent",
    "Agents",
    "ExternalError",
    "Join",
    "meeting_point",
]
