"""Fixtures: of a rank (`world` and its parts), and of the launcher (`elastic`).

They are registered in every run, so nothing heavy is imported before one is asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.plugin._marker import PAIRS, read_backend
from pytest_elastic.plugin._stash import CONDUCTOR, RANK

if TYPE_CHECKING:
    from pytest_elastic.launch import Elastic, World
    from pytest_elastic.plugin._reproduce import ElasticFaults
    from pytest_elastic.store import HashStore, MockStore, Store
    from pytest_elastic.timer import Countdown


def _world(config: pytest.Config, name: str) -> World:
    """This rank's; fails where a test in pytest itself asked late for the fixture of that name."""
    rank = config.stash.get(RANK, None)
    if rank is None or rank.world is None:
        pytest.fail(
            f"`{name}` is for tests on ranks, and this one runs in pytest: "
            f"mark it `elastic`, or have `{name}` as an argument",
            pytrace=False,
        )
    return rank.world


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> World:
    """This rank's view of its group: `rank`, `size`, `store`, `barrier`, `gather`, `broadcast`."""
    return _world(pytestconfig, "world")


@pytest.fixture(scope="session")
def rank(pytestconfig: pytest.Config) -> int:
    """The number of this rank, 0 to world_size - 1."""
    return _world(pytestconfig, "rank").rank


@pytest.fixture(scope="session")
def world_size(pytestconfig: pytest.Config) -> int:
    """How many ranks run this test."""
    return _world(pytestconfig, "world_size").size


@pytest.fixture(scope="session")
def elastic_store(pytestconfig: pytest.Config) -> Store:
    """The store of this group, served to all its ranks."""
    return _world(pytestconfig, "elastic_store").store


@pytest.fixture
def shared_tmp_path(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """One directory for all ranks of this test; `tmp_path` is private to each rank."""
    _world(pytestconfig, "shared_tmp_path")
    if pytestconfig.stash[RANK].spread:
        pytest.fail("shared_tmp_path: the ranks are on several machines, which share no directory", False)
    group = Path(pytestconfig.stash[RANK].directory).parent
    name = "".join(char if char.isalnum() else "_" for char in request.node.name)[:30]
    path = group / "shared" / f"{name}-{zlib.crc32(request.node.nodeid.encode('utf-8', 'surrogatepass')):x}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def expires(pytestconfig: pytest.Config) -> Callable[..., Countdown]:
    """`with expires(after=5, scope="exchange"):` kills the rank whose block takes longer."""
    _world(pytestconfig, "expires")
    from pytest_elastic.timer import expires as countdown

    return countdown


@pytest.fixture
def mock_store(request: pytest.FixtureRequest) -> MockStore:
    """A store that answers at once, records every operation in `.ops`, and fails where it is told to.

    The answers are those of the marker: `mock_store(get=[b"1", b"2"], add=7)`; see `MockStore`.
    """
    from pytest_elastic.store import MockStore

    mark = request.node.get_closest_marker("mock_store")
    try:
        return MockStore(*mark.args, **mark.kwargs) if mark is not None else MockStore()
    except (TypeError, ValueError) as error:
        path, line, _ = request.node.reportinfo()
        pytest.fail(f"{path}:{(line or 0) + 1}: mock_store(): {error}", pytrace=False)


@pytest.fixture
def hash_store() -> HashStore:
    """A real store in this process, for threads."""
    from pytest_elastic.store import HashStore

    return HashStore()


@pytest.fixture
def process_group(world: World, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An initialised `torch.distributed` group over the store of the ranks; skipped without torch.

    Its backend is gloo, or that of the marker `process_group`; one that cannot be had is a skip.
    """
    # A backend that nobody knows is an error only here, since a fixture may register it.
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    from pytest_elastic.store import torch_store

    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    backend = read_backend(request.node)
    known = sorted(set(distributed.Backend.backend_list) - {distributed.Backend.UNDEFINED})
    for name in (pair.rpartition(":")[2].lower() for pair in backend.split(",")):
        if name not in known:
            path, line, _ = request.node.reportinfo()
            text = f"process_group(backend={backend!r}): allowed are {', '.join(map(repr, known))}, {PAIRS}"
            pytest.fail(f"{path}:{(line or 0) + 1}: {text}", pytrace=False)
        missing = _missing(torch, name)
        if missing:
            pytest.skip(f"process_group(backend={backend!r}): {missing}")
    distributed.init_process_group(
        backend, store=torch_store(world.store), rank=world.rank, world_size=world.size
    )
    yield distributed.group.WORLD
    if distributed.is_initialized():  # The test may have destroyed it.
        distributed.destroy_process_group()


def _missing(torch: Any, name: str) -> str:
    """Why the backend cannot be used on this machine, in words; `""` if nothing is known."""
    if not torch.distributed.is_backend_available(name):
        return f"this torch is built without {name}"
    devices = torch.distributed.Backend.backend_capability.get(name, ["cpu"])
    modules = [getattr(torch, device, None) for device in devices if device != "cpu"]
    if len(modules) < len(devices) or any(module and module.is_available() for module in modules):
        return ""
    return f"{name} needs a {' or '.join(devices).upper()} device, and there is none"


@pytest.fixture
def _elastic_nprocs(request: pytest.FixtureRequest) -> Any:
    """Carries the size of an item of `elastic(nprocs=[...])`."""
    return request.param


@pytest.fixture
def elastic(request: pytest.FixtureRequest) -> Iterator[Elastic]:
    """Runs functions on ranks; groups that the test leaves open are closed at its end."""
    yield from _controller(request, "elastic")


@pytest.fixture(scope="session")
def elastic_session(request: pytest.FixtureRequest) -> Iterator[Elastic]:
    """The same for fixtures of any scope: its groups live until they are closed, or to the end of the run."""
    yield from _controller(request, "elastic_session")


def _controller(request: pytest.FixtureRequest, name: str) -> Iterator[Elastic]:
    stash = request.config.stash
    if RANK in stash:
        pytest.fail(
            f"`{name}` is for tests that stay in pytest and run functions on ranks, "
            "and this test runs on ranks itself",
            pytrace=False,
        )
    if CONDUCTOR not in stash:
        pytest.fail(
            f"`{name}` must be an argument of a test or of a fixture: "
            "ranks are prepared before the first test runs",
            pytrace=False,
        )
    made = stash[CONDUCTOR].controller(request.node)
    yield made
    made.close()


@pytest.fixture
def elastic_faults(
    pytestconfig: pytest.Config, request: pytest.FixtureRequest, elastic: Elastic
) -> ElasticFaults:
    """`elastic_faults(kill(rank=1, op=4))` plans faults for all groups that `elastic` starts from then on.

    A planned fault that never happens fails the test.
    """
    from pytest_elastic.plugin._options import Options
    from pytest_elastic.plugin._reproduce import ElasticFaults

    return ElasticFaults(request.node, elastic, Options.seed.read(pytestconfig) or 0)
