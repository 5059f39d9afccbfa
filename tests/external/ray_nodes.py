"""A cluster of Ray with two nodes of two processors on this machine, in a process of its own.

`python ray_nodes.py` prints its address, and the process that holds each node.  It ends the cluster when its stdin ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from types import TracebackType


class Nodes:
    """Such a cluster, from `with` to its end.

    Attributes:
        address: for RAY_ADDRESS.
        raylets: pids of the processes that hold the nodes; nothing depends on the last one.
    """

    def __enter__(self) -> Nodes:
        # Others may have a cluster on this machine, and Ray writes down the address of the last one.
        self._directory = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True, env={**os.environ, "RAY_TMPDIR": self._directory.name},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address, *pids = self._process.stdout.readline().split()
        self.raylets = list(map(int, pids))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._directory, self._process:  # Which closes its stdin, and waits.
            pass


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray writes more by the way.
    head = {"num_cpus": 2, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = (cluster.head_node, cluster.add_node(num_cpus=2))
    print(cluster.address, *(one.all_processes["raylet"][0].process.pid for one in nodes), file=told)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
