"""Fixtures: of a rank (`world` and its parts), and of the launcher (`elastic`).

They are registered in every run, so nothing heavy is imported before one is asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_elastic.plugin._stash import CONDUCTOR, RANK

if TYPE_CHECKING:
    from pytest_elastic.launch import Elastic, World
    from pytest_elastic.store import Store


def _world(config: pytest.Config) -> World:
    rank = config.stash.get(RANK, None)
    if rank is None or rank.world is None:
        raise pytest.UsageError("this process is no rank: rank fixtures are for tests that run on ranks")
    return rank.world


@pytest.fixture(scope="session")
def world(pytestconfig: pytest.Config) -> World:
    """This rank's view of its group: `rank`, `size`, `store`, `barrier`, `gather`, `broadcast`."""
    return _world(pytestconfig)


@pytest.fixture(scope="session")
def rank(pytestconfig: pytest.Config) -> int:
    """The number of this rank, 0 to world_size - 1."""
    return _world(pytestconfig).rank


@pytest.fixture(scope="session")
def world_size(pytestconfig: pytest.Config) -> int:
    """How many ranks run this test."""
    return _world(pytestconfig).size


@pytest.fixture(scope="session")
def elastic_store(pytestconfig: pytest.Config) -> Store:
    """The store of this group, served to all its ranks."""
    return _world(pytestconfig).store


@pytest.fixture
def shared_tmp_path(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """One directory for all ranks of this test; `tmp_path` is private to each rank."""
    _world(pytestconfig)
    group = Path(pytestconfig.stash[RANK].directory).parent
    name = "".join(char if char.isalnum() else "_" for char in request.node.name)[:30]
    path = group / "shared" / f"{name}-{zlib.crc32(request.node.nodeid.encode()):x}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def _elastic_nprocs(request: pytest.FixtureRequest) -> Any:
    """Carries the size of an item of `elastic(nprocs=[...])`."""
    return request.param


@pytest.fixture
def elastic(pytestconfig: pytest.Config) -> Iterator[Elastic]:
    """Runs functions on ranks; groups that the test leaves open are closed at its end."""
    made = pytestconfig.stash[CONDUCTOR].controller()
    yield made
    made.close()
