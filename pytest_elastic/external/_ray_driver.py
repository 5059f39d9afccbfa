"""Ray driver: a process that speaks to Ray for pytest, and starts one process on a node for each rank.

*Theory of operation.*  Ray has threads, signal handlers and an end of its own, and tests may use it by
themselves: so pytest never imports it, and this process does.  It places one actor for each rank and has each
start a program, the agent of its rank, in a session of its own.  Actors do no more than that: they wait for
the end of the program, and of their node.  Ray may need 15 seconds to notice that a node is gone; who waits
for the end of its raylet on that node knows at once.

The process ends with pytest, whatever that ended by, or when it is told to, and Ray ends the actors of a
driver that has ended.  An agent ends with its actor and with its raylet, and its zygote sweeps what it has
started.

This is the only file that imports Ray.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_elastic.clock import Deadline
from pytest_elastic.multiprocessing import Channel
from pytest_elastic.pristine import os, select, threading, time
from pytest_elastic.processes import wait_for

END = "end"  # To the driver.
_ACCELERATORS = "_VISIBLE_"  # In the names of variables by which Ray tells of accelerators.
_FAREWELL = 2.0  # Seconds for an agent to end by itself when its node is gone.
_PERIOD = 0.5  # Seconds from one look whether pytest is there to the next.
_SHUTDOWN = 10.0  # For Ray to end when pytest is gone.
_SAID = 4000  # Characters of what an agent has written that are told.
# What is imported here is imported before pytest could rewrite its asserts.
_START = (
    "import json, sys; told = json.load(sys.stdin); sys.path[:], sys.argv[:] = told['path'], told['argv'];"
    " exec(told['code'])"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of Ray.

    Attributes:
        size: how many ranks.
        address: of the cluster; `auto` for one that runs, else one on this machine only.
        strategy: `SPREAD` or `STRICT_PACK`, see Ray's placement groups.
        resources: of each rank.
        seconds: for room.
        root: directory that other machines get a copy of.
    """

    size: int
    address: str
    strategy: str
    resources: dict[str, float]
    seconds: float
    root: str


@dataclass(frozen=True, slots=True)
class Placed:
    """From the driver: an actor for each rank.

    Attributes:
        nodes: rank -> `node` (its number), `address`, `near` (whether it is pytest's machine), `version`.
        address: of the driver's node.
    """

    nodes: list[dict[str, Any]]
    address: str


@dataclass(frozen=True, slots=True)
class Refused:
    """From the driver: there will be no ranks; why, in words."""

    why: str


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """From the driver: the program of a rank has ended, with this code or lost (`None`); what it has said."""

    rank: int
    code: int | None
    said: str


class Actor:
    """In a worker of Ray's, on the node of a rank; made by value, since the package may not be there."""

    def place(self, machine: str) -> dict[str, Any]:
        """What this node is; `machine` is that of pytest."""
        import ray

        context = ray.get_runtime_context()
        told = {
            "node": context.get_node_id(),
            "address": ray.util.get_node_ip_address(),
        }
        try:
            from pytest_elastic import __version__
            from pytest_elastic.processes import this_machine
        except ImportError as error:
            return {**told, "version": "", "near": False, "error": str(error)}
        return {**told, "version": __version__, "near": this_machine() == machine}

    def run(self, order: dict[str, Any]) -> tuple[int, str]:
        """Start a program, and wait for its end: the exit code, and the last of what it has written."""
        import subprocess
        import tempfile

        from pytest_elastic.pristine import json, os, select

        raylet = os.getppid()
        mine = {name: value for name, value in os.environ.items() if _ACCELERATORS in name}
        env = {**(order["env"] if order["near"] else {**os.environ, **order["env_there"]}), **mine}
        told = {**order["told"], "upon": [os.getpid(), raylet]}
        if not order["near"]:
            root, copy = (json.dumps(path)[1:-1] for path in (order["root"], os.getcwd()))
            told = json.loads(json.dumps(told).replace(root, copy))
            told["path"] += sys.path  # Where packages are here.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                [sys.executable, *order["options"], "-c", _START],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, cwd=told["directory"],
                text=True, start_new_session=True,
            )  # fmt: skip
            assert process.stdin is not None
            try:
                with process.stdin:
                    json.dump(told, process.stdin)
            except OSError:  # It has ended, and says why.
                pass
            poll = select.poll()
            watched = os.pidfd_open(raylet)
            for descriptor in (watched, os.pidfd_open(process.pid)):
                poll.register(descriptor, select.POLLIN)
            if any(descriptor == watched for descriptor, _ in poll.poll()):
                try:
                    process.wait(_FAREWELL)
                except subprocess.TimeoutExpired:
                    process.kill()
                os._exit(1)
            code = process.wait()
            output.seek(0)
            return code, output.read()[-_SAID:]


class Driver:
    """The side of pytest's channel that speaks to Ray.

    Args:
        pytest: pidfd of its process: strangers' forks of that may hold the channel open.
    """

    def __init__(self, channel: Channel, pytest: int) -> None:
        self._channel, self._pytest, self._lock = channel, pytest, threading.Lock()
        self._heard: list[Any] = []
        self._actors: list[Any] = []

    def serve(self) -> None:
        """Do what pytest says until it says no more."""
        try:
            machine, wish = self._hear()
            try:
                placed = self._place(machine, wish)
            except Exception as error:
                self._tell(Refused(_words(error)))
                self._hear()
                return
            self._tell(placed)
            orders = self._hear()
            for rank, (actor, order) in enumerate(zip(self._actors, orders, strict=True)):
                self._watch(rank, actor.run.remote(order))
            self._hear()
        except (EOFError, OSError):  # Pytest is gone, or done.
            pass

    def _hear(self) -> Any:
        """The next message.

        Raises:
            EOFError: there will be none.
        """
        poll = select.poll()
        for descriptor in (self._channel.fileno(), self._pytest):
            poll.register(descriptor, select.POLLIN)
        while not self._heard:
            ready = [descriptor for descriptor, _ in poll.poll()]
            self._heard += [message for message, _ in self._channel.receive()]
            if self._pytest in ready or (self._channel.closed and not self._heard):
                raise EOFError
        message = self._heard.pop(0)
        if message == END:
            raise EOFError
        return message

    def _tell(self, message: object) -> None:
        with self._lock:
            self._channel.send(message)

    def _place(self, machine: str, wish: Wish) -> Placed:
        import ray

        _connect(wish.address, {})
        address = ray.util.get_node_ip_address()
        if any(node["NodeManagerAddress"] != address for node in ray.nodes() if node["Alive"]):
            ray.shutdown()  # The directory for all workers can be told with the connection only.
            _connect(wish.address, {"working_dir": wish.root})
        self._actors = self._made(wish)
        asked = [actor.place.remote(machine) for actor in self._actors]
        started = partial(ray.wait, asked, num_returns=wish.size, timeout=_PERIOD)
        if not self._comes(lambda: not started()[1], wish.seconds):
            raise TimeoutError(f"actors have not started within {wish.seconds:g} s")
        return Placed(ray.get(asked), address)

    def _made(self, wish: Wish) -> list[Any]:
        import ray
        from ray.util.placement_group import placement_group

        group = placement_group([wish.resources] * wish.size, strategy=wish.strategy)
        if not self._comes(lambda: group.wait(_PERIOD), wish.seconds):
            raise TimeoutError(_lacking(wish, ray.cluster_resources(), ray.available_resources()))
        return _actors(wish, group)

    def _comes(self, ask: Callable[[], object], seconds: float) -> bool:
        """Ask again until it is so, for so many seconds; whether it is.

        Raises:
            EOFError: pytest is gone.
        """
        deadline = Deadline.after(seconds)
        while not ask():
            if wait_for(self._pytest, select.POLLIN, 0) or self._channel.receive() or self._channel.closed:
                raise EOFError
            if deadline.passed():
                return False
        return True

    def _watch(self, rank: int, result: Any) -> None:
        """Tell of the end of a rank's program."""

        def ended(future: Any) -> None:
            error = future.exception()
            code, said = (None, _words(error)) if error is not None else future.result()
            try:
                self._tell(AgentEnded(rank, code, said))
            except OSError:  # Pytest is gone.
                pass

        result.future().add_done_callback(ended)


def _connect(address: str, environment: dict[str, Any]) -> None:
    import ray

    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": environment}
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address, **how)
    except ConnectionError as error:
        if address != "auto" or "RAY_ADDRESS" in os.environ:
            raise ConnectionError(f"no cluster of Ray can be reached: {error}") from None
        ray.init(address="local", include_dashboard=False, **how)


def _actors(wish: Wish, group: Any) -> list[Any]:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    named = {"CPU": "num_cpus", "GPU": "num_gpus"}
    amounts = {named[name]: amount for name, amount in wish.resources.items() if name in named}
    others = {name: amount for name, amount in wish.resources.items() if name not in named}
    made = ray.remote(Actor)
    return [
        made.options(
            **{"num_cpus": 0, **amounts},
            resources=others,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        ).remote()
        for rank in range(wish.size)
    ]


def _lacking(wish: Wish, there: dict[str, float], free: dict[str, float]) -> str:
    """What a cluster lacks for so many ranks."""
    said = [
        f"{amount * wish.size:g} {name} ({amount:g} for each), of {there.get(name, 0):g} there are"
        f" {free.get(name, 0):g} free"
        for name, amount in wish.resources.items()
    ]
    packed = " on one node" if wish.strategy == "STRICT_PACK" else ""
    return (
        f"no room for {wish.size} ranks{packed} ({wish.strategy}) within {wish.seconds:g} s: they need"
        f" {', and '.join(said)}"
    )


def _words(error: BaseException) -> str:
    """What an error says, in a line; Ray's own have the trace of a worker before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1] if type(error).__module__.startswith("ray.") else " ".join(lines)


def _end_after(pytest: int) -> None:
    """In a thread: end soon after pytest, whatever Ray is busy with."""
    poll = select.poll()
    poll.register(pytest, select.POLLIN)
    poll.poll()
    time.sleep(_SHUTDOWN)
    os._exit(1)


def main() -> None:
    """The whole program; arguments: the number of the channel's descriptor, and pytest's pid."""
    number, parent = map(int, sys.argv[1:])
    channel, pytest = Channel.of(number), os.pidfd_open(parent)
    os.set_inheritable(channel.fileno(), False)
    if os.getppid() != parent:  # It may have ended before.
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Tests tell nobody of themselves.
    threading.Thread(target=_end_after, args=(pytest,), daemon=True).start()
    Driver(channel, pytest).serve()
    ray: Any = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()
