"""Hosts on one machine: namespaces behind a bridge, each with addresses, process numbers and a clock of its own.

Links can be cut, delayed and made to lose packets.  It needs `ip` and `tc` (the Debian package `iproute2`) and root.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_numbers = itertools.count(1)
_OWN = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--time", "--monotonic"]


def lacking() -> str:
    """Why there are no hosts here; `""` if there can be."""
    if os.geteuid() != 0:
        return "hosts need root"
    if not all(map(shutil.which, ("ip", "tc", "unshare", "nsenter"))):
        return "iproute2 is not installed"
    tried = subprocess.run([*_OWN, "1", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"the kernel allows no namespaces: {tried.stderr.strip()}"


def sh(line: str) -> str:
    return subprocess.run(line.split(), check=True, capture_output=True, text=True).stdout


class Hosts:
    """Some hosts, with addresses; `close` ends what runs there."""

    def __init__(self, count: int, directory: Path) -> None:
        self._directory, self._inits = directory, list[subprocess.Popen[bytes]]()
        self._net, number = os.getpid() % 250, next(_numbers)
        self._switch = f"pe{os.getpid() % 1_000_000}x{number}"
        sh(f"ip link add {self._switch} type bridge")
        sh(f"ip link set {self._switch} up")
        for host in range(count):
            # The first process of a host reads until this one has ended, and then all of the host ends.
            init = subprocess.Popen(
                [*_OWN, str(1000 * (host + 1)), "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            self._inits.append(init)
            sh(f"ip link add {self._link(host)} type veth peer name eth0 netns {self._init(host)}")
            sh(f"ip link set {self._link(host)} master {self._switch} up")
            for line in (
                f"address add {self.address(host)}/24 dev eth0",
                f"address add {self.address_6(host)}/64 dev eth0 nodad",
                "link set eth0 up",
                "link set lo up",
            ):
                sh(" ".join([*self._enter(host), "ip", line]))

    def address(self, host: int) -> str:
        return f"10.77.{self._net}.{host + 1}"

    def address_6(self, host: int) -> str:
        return f"fd77::{self._net:x}:{host + 1}"

    def begin(
        self, host: int, command: Sequence[str], env: Mapping[str, str], output: Path
    ) -> subprocess.Popen[str]:
        """Start a command there, with a directory for temporary files of the host's own; its output goes to a file."""
        temporary = self._directory / f"tmp{host}"
        temporary.mkdir(exist_ok=True)
        with output.open("w") as file:
            return subprocess.Popen(
                [*self._enter(host), "sh", "-c", 'cd "$0" && exec "$@"', str(self._directory), *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, text=True,
                env={"MASTER_ADDR": self.address(0), **env, "TMPDIR": str(temporary)},
            )  # fmt: skip

    def cut(self, host: int) -> None:
        """Nothing gets to this host any more, or away from it."""
        sh(f"ip link set {self._link(host)} down")

    def mend(self, host: int) -> None:
        sh(f"ip link set {self._link(host)} up")

    def spoil(self, host: int, how: str) -> None:
        """Have the link to this host be slow, and lose what does not fit: in words of `tc`."""
        sh(f"tc qdisc add dev {self._link(host)} root {how}")

    def processes(self, host: int) -> list[str]:
        """Commands that run there, besides the first one."""
        lines = sh(" ".join([*self._enter(host), "ps", "-e", "-o", "pid=,args="])).splitlines()
        return [line for line in lines if line.split()[1:2] not in (["ps"], ["cat"])]

    def close(self) -> None:
        for init in self._inits:
            init.kill()  # With it all that runs there; then the kernel takes the link.
            init.wait(10)
            assert init.stdin is not None
            init.stdin.close()
        sh(f"ip link del {self._switch}")

    def _link(self, host: int) -> str:
        return f"{self._switch}h{host}"

    def _init(self, host: int) -> int:
        pid = self._inits[host].pid
        while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            pass
        return int(found[0])

    def _enter(self, host: int) -> list[str]:
        return ["nsenter", "--target", str(self._init(host)), "--net", "--pid", "--mount", "--time", "--"]
