"""The names at the top of the package, and what a type checker says to a test that uses them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import pytest_elastic
from pytest_elastic import _HOME

USE = """
import pytest

from pytest_elastic import Elastic, HashStore, MockStore, Store, World, expires, explore
from pytest_elastic.faults import delay, kill
from pytest_elastic.store import barrier


@pytest.mark.elastic(nprocs=4, faults=kill(rank=1, op=4) | delay(rank=0, by=0.2, key="a*"))
def test_marked(world: World) -> None:
    with expires(after=5):
        numbers: list[int] = world.gather(world.rank)
    world.store.set("sum", str(sum(numbers)))
    world.barrier("done", timeout=1.5)


def double(rank: int, size: int, factor: float) -> float:
    return rank * factor


def test_controller(elastic: Elastic) -> None:
    values: list[float] = elastic.run(double, nprocs=2, args=(2.0,), timeout=5)
    assert values == [0.0, 2.0]


def test_store(hash_store: HashStore, mock_store: MockStore) -> None:
    hash_store.set("key", b"value")
    value: bytes = hash_store.get("key")
    assert value and not mock_store.check(["key"])


def body(rank: int, size: int, store: Store) -> None:
    barrier(store, size, "done", 10.0)


def test_simulated() -> None:
    explore(body, 2)
"""


@pytest.mark.parametrize("name", _HOME)
def test_a_name_at_the_top_is_that_of_its_part(name: str) -> None:
    """The same object, which `dir` lists, and the part exports."""
    part = importlib.import_module(f"pytest_elastic.{_HOME[name]}")
    assert getattr(pytest_elastic, name) is getattr(part, name)
    assert name in dir(pytest_elastic)
    assert name in getattr(part, "__all__", vars(part))


def test_another_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="module 'pytest_elastic' has no attribute 'Wrold'"):
        pytest_elastic.Wrold  # noqa: B018


def test_a_test_file_of_a_user_is_strictly_typed(tmp_path, pytestconfig) -> None:
    """Fixtures, the marker, faults and values of ranks have types; a wrong one is found."""
    pytest.importorskip("mypy")
    wrong = USE.replace("rank=1, op=4", "rank=1, pos=4").replace("list[float]", "list[str]")
    (tmp_path / "test_use.py").write_text(USE, "utf-8")
    (tmp_path / "test_misuse.py").write_text(wrong, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "test_use.py", "test_misuse.py"]
    if hasattr(pytestconfig, "cache"):  # What it knows of the package serves the next run.
        command.append(f"--cache-dir={pytestconfig.cache.mkdir('mypy')}")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    *errors, last = done.stdout.splitlines()
    assert last.startswith("Found 3 errors in 1 file"), done.stdout + done.stderr
    assert all(error.startswith("test_misuse.py:") for error in errors)
    assert 'Unexpected keyword argument "pos" for "kill"' in done.stdout
    assert "list[str]" in done.stdout
