"""Which tests run on ranks, and how: the markers `elastic` and `process_group`, and the rank fixtures."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from pytest_elastic.errors import MarkerError
from pytest_elastic.plugin._options import CLOCKS, COLLECTIVES, Options
from pytest_elastic.plugin._stash import SIZE
from pytest_elastic.wording import read_exits

SIGNATURE = (
    "elastic(nprocs=None, timeout=None, start_method=None, lifetime='test', env=None, expect=None, "
    "clock=None, faults=None, collectives=None, launcher=None): run the test on `nprocs` ranks (a list makes "
    "one test for each size)"
)
RANK_FIXTURES = frozenset(
    {"rank", "world_size", "world", "elastic_store", "shared_tmp_path", "expires", "process_group"}
)
_CONTROLLERS = frozenset({"elastic", "elastic_session"})
NPROCS_FIXTURE = "_elastic_nprocs"
PAIRS = "or 'cpu:gloo,cuda:nccl'"  # How the backends of several devices are written.
_LIFETIMES = ("test", "class", "module", "session")
_LAUNCHERS = ("local", "ray")
_KEYS = (
    *("nprocs", "timeout", "start_method", "lifetime", "env", "expect", "clock", "faults", "collectives"),
    "launcher",
)


class Marker(NamedTuple):
    """A checked `elastic` marker; `None` means the run's default.

    Attributes:
        sizes: the numbers of ranks; empty for the default.
        listed: whether they were given as a list, and so name the items.
        expect: rank -> exit code with which it is to die; what `faults` do to ranks included.
        faults: a `FaultPlan`.
        collectives: mode of torch's.
        launcher: who starts the ranks.
    """

    sizes: tuple[int, ...] = ()
    listed: bool = False
    timeout: float | None = None
    start_method: str | None = None
    lifetime: str = "test"
    env: Mapping[str, str] = MappingProxyType({})
    expect: Mapping[int, int] = MappingProxyType({})
    clock: str | None = None
    faults: Any = None
    collectives: str | None = None
    launcher: str | None = None


_PLAIN = Marker()  # Of each test without the marker, which are most.


def read_marker(node: pytest.Item | Any) -> Marker:
    """The marker of a test: each key from the closest mark that has it.

    Raises:
        MarkerError: something in it is not allowed; without the place, which the caller knows.
    """
    given: dict[str, Any] = {}
    for mark in node.iter_markers("elastic"):
        if len(mark.args) > 1:
            raise MarkerError(f"elastic() takes one positional argument, nprocs, not {len(mark.args)}")
        here = {**dict(zip(("nprocs",), mark.args, strict=False)), **mark.kwargs}
        for key in here:
            if key not in _KEYS:
                raise MarkerError(f"elastic() has no argument {key!r}; allowed are {', '.join(_KEYS)}")
        given = {**here, **given}
    if not given:
        return _PLAIN
    nprocs = given.get("nprocs")
    sizes = _sizes(nprocs)
    faults, ends = _faults(given.get("faults"), max(sizes, default=0))
    return Marker(
        sizes,
        isinstance(nprocs, list | tuple),
        _timeout(given.get("timeout")),
        _start_method(given.get("start_method")),
        _one_of("lifetime", given.get("lifetime", "test"), _LIFETIMES),
        _env(given.get("env")),
        {**ends, **_expect(given.get("expect"), max(sizes, default=0))},
        _one_of("clock", given.get("clock"), (None, *CLOCKS)),
        faults,
        _one_of("collectives", given.get("collectives"), (None, *COLLECTIVES)),
        _one_of("launcher", given.get("launcher"), (None, *_LAUNCHERS)),
    )


def _sizes(value: Any) -> tuple[int, ...]:
    allowed = "allowed are None, a whole number from 1, or a list of different such numbers"
    if value is None:
        return ()
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(type(size) is int and size >= 1 for size in sizes) or not sizes:
        raise MarkerError(f"elastic(nprocs={value!r}): {allowed}")
    if len(set(sizes)) < len(sizes):
        raise MarkerError(f"elastic(nprocs={value!r}) names a size twice: {allowed}")
    return sizes


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise MarkerError(f"elastic(timeout={value!r}): allowed are None and seconds, 0 for no limit")
    return float(value)


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise MarkerError(f"elastic({name}={value!r}): allowed are {', '.join(map(repr, allowed))}")
    return value


def _start_method(value: Any) -> Any:
    if value in (None, "auto"):
        return value
    from pytest_elastic.launch import START_METHODS

    return _one_of("start_method", value, (None, "auto", *START_METHODS))


def _faults(value: Any, size: int) -> tuple[Any, dict[int, int]]:
    """The plan, and how ranks end by it."""
    if value is None:
        return None, {}
    from pytest_elastic.errors import FaultPlanError
    from pytest_elastic.faults import FaultPlan, parse

    try:
        plan = parse(value) if isinstance(value, str) else value
        if not isinstance(plan, FaultPlan):
            raise FaultPlanError(repr(value), "a plan such as kill(rank=1, op=4), or its text")
        plan.check(size or len(plan.faults) * 2**20)
    except FaultPlanError as error:
        raise MarkerError(f"elastic(faults=...): {error}") from None
    return plan, plan.ends


def _env(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise MarkerError(f"elastic(env={value!r}): allowed is a dict of str to str")
    return dict(value)


def _expect(value: Any, size: int) -> dict[int, int]:
    if value is None:
        return {}
    try:
        return read_exits(value, size)
    except ValueError as error:
        raise MarkerError(f"elastic(expect={value!r}): {error}") from None


def is_elastic(item: pytest.Item) -> bool:
    """Whether the test runs on ranks: it is marked, or it asks for a rank fixture of ours."""
    if not isinstance(item, pytest.Function):
        return False
    return item.get_closest_marker("elastic") is not None or bool(_rank_fixtures(item))


def runs_functions(item: pytest.Item) -> bool:
    """Whether the test stays in pytest and runs functions on ranks."""
    return not _CONTROLLERS.isdisjoint(getattr(item, "fixturenames", ()))


def _rank_fixtures(item: pytest.Function) -> list[str]:
    return [name for name in item.fixturenames if name in RANK_FIXTURES and _is_ours(item, name)]


def _is_ours(item: pytest.Function, name: str) -> bool:
    """A user's fixture of the same name wins, unless it asks for ours in turn."""
    for definition in reversed(item._fixtureinfo.name2fixturedefs.get(name, ())):
        if definition.func.__module__.startswith("pytest_elastic."):
            return True
        if name not in definition.argnames:
            return False
    return False


def size_of(item: pytest.Item, default: int) -> int:
    """How many ranks this item has."""
    return item.stash[SIZE][0] if SIZE in item.stash else next(iter(read_marker(item).sizes), default)


def parametrize_sizes(metafunc: pytest.Metafunc) -> None:
    """One item per size where the marker has a list; a bad marker is left to `check_marker`."""
    if metafunc.definition.get_closest_marker("elastic") is None:
        return
    try:
        marker = read_marker(metafunc.definition)
    except MarkerError:
        return
    if marker.listed:
        metafunc.fixturenames.append(NPROCS_FIXTURE)
        ids = [f"nprocs{size}" for size in marker.sizes]
        metafunc.parametrize(NPROCS_FIXTURE, marker.sizes, ids=ids, indirect=True)


def one_per_size(item: pytest.Item) -> list[pytest.Item]:
    """The items of this test, one for each size of its marker's list, whoever has marked it.

    A list on the function, its class or its module has made them already; one on a `pytest.param`, or one
    that a hook adds to the collected item, has not.
    """
    if not isinstance(item, pytest.Function) or SIZE in item.stash or _is_unittest(item):
        return [item]
    try:
        marker = read_marker(item)
    except MarkerError:
        return [item]
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    if NPROCS_FIXTURE in params:
        item.stash[SIZE] = (int(params[NPROCS_FIXTURE]), marker.sizes)
    elif marker.listed:
        return [_of_size(item, size, marker.sizes) for size in marker.sizes]
    return [item]


def _of_size(item: pytest.Function, size: int, sizes: tuple[int, ...]) -> pytest.Function:
    name = f"{item.name[:-1]}-nprocs{size}]" if item.name.endswith("]") else f"{item.name}[nprocs{size}]"
    # The name is the last part of the id only where neither `originalname` nor `callspec` is given.
    made = type(item).from_parent(
        item.parent, name=name, callobj=item.function, fixtureinfo=item._fixtureinfo
    )
    made.originalname = item.originalname
    if hasattr(item, "callspec"):
        made.callspec = item.callspec
    for known in ("_obj", "_instance"):  # Each item has an instance of its class.
        vars(made).pop(known, None)
    made.own_markers[:] = item.own_markers
    made.keywords.update({mark.name: mark for mark in item.own_markers})
    made.extra_keyword_matches.update(item.extra_keyword_matches)
    made.user_properties.extend(item.user_properties)
    made.stash[SIZE] = (size, sizes)
    return made


def _is_unittest(item: pytest.Function) -> bool:
    unittest: Any = sys.modules.get("unittest")
    return unittest is not None and item.cls is not None and issubclass(item.cls, unittest.TestCase)


def check_marker(item: pytest.Item) -> None:
    """Check the markers of a collected test.

    Raises:
        MarkerError: with the test's file and line.
    """
    try:
        read_backend(item)
        _check(item, read_marker(item))
        _check_fixtures(item)
    except MarkerError as error:
        path, line, _ = item.reportinfo()
        raise MarkerError(error.text, f"{path}:{(line or 0) + 1}") from None


def _check(item: pytest.Item, marker: Marker) -> None:
    """Check what its marker says against the test, and against the options."""
    if marker.expect and not marker.sizes:
        default = Options.nprocs.read(item.config)
        planned = marker.faults.ends if marker.faults is not None else {}  # Which the group checks.
        if beyond := [rank for rank in marker.expect if rank >= default and rank not in planned]:
            raise MarkerError(
                f"elastic(): rank {min(beyond)} is not in the test, which has {default} (--elastic-nprocs)"
            )
    if not isinstance(item, pytest.Function):
        # A doctest of a module that is marked is no test of that kind.
        if any(mark.name == "elastic" for mark in item.own_markers):
            raise MarkerError(f"elastic() is for test functions and methods, not for a {type(item).__name__}")
        return
    if marker.listed and _is_unittest(item):
        raise MarkerError("elastic(nprocs=[...]) is not for methods of unittest.TestCase")
    sizes = item.stash.get(SIZE, (0, ()))[1]
    if sizes != marker.sizes and (sizes or marker.listed):
        made = f"nprocs={[*sizes]}" if sizes else "one size"
        raise MarkerError(
            f"elastic(nprocs={[*marker.sizes]}) came too late: the items of the test were made for {made}"
        )


def adoptable(items: list[pytest.Item]) -> list[pytest.Item]:
    """Which of the collected items run on ranks; one whose late mark is bad fails, and says why."""
    good = []
    for item in items:
        if is_elastic(item) or any(mark.name == "elastic" for mark in item.own_markers):
            try:
                check_marker(item)
                good.append(item)
            except MarkerError as error:
                fail_instead(item, str(error))
    return good


def fail_instead(item: pytest.Item, text: str) -> None:
    """Replace the test by a failure in its setup, with this text."""

    def setup() -> None:
        pytest.fail(text, pytrace=False)

    item.setup = setup  # type: ignore[method-assign]
    item.teardown = lambda: None  # type: ignore[method-assign]


def _check_fixtures(item: pytest.Item) -> None:
    if not isinstance(item, pytest.Function) or not is_elastic(item):
        return
    names = (name for name in item.fixturenames if name in _CONTROLLERS and _is_ours(item, name))
    if (name := next(names, "")) == "":
        return
    asked = _rank_fixtures(item)
    marked = item.get_closest_marker("elastic") is not None
    why = "is marked `elastic`" if marked else f"asks for `{asked[0]}`"
    text = (
        f"a test that {why} runs on ranks, and one that asks for the fixture `{name}` stays in pytest "
        "and runs functions on ranks; this one does both"
    )
    if "elastic_faults" in item.fixturenames:
        text += "; the faults of a test on ranks are in its marker: elastic(faults=...)"
    if "expires" in asked:
        text += "; those functions import it: from pytest_elastic.timer import expires"
    raise MarkerError(text)


def read_backend(node: pytest.Item | Any) -> str:
    """The backend of the closest marker `process_group`, or gloo; whether there is such a one is not asked.

    Raises:
        MarkerError: something in it is not allowed; without the place, which the caller knows.
    """
    mark = node.get_closest_marker("process_group")
    if mark is None:
        return "gloo"
    if len(mark.args) > 1:
        raise MarkerError(f"process_group() takes one positional argument, backend, not {len(mark.args)}")
    for key in mark.kwargs:
        if key != "backend":
            raise MarkerError(f"process_group() has no argument {key!r}; allowed is backend")
    if mark.args and mark.kwargs:
        raise MarkerError("process_group() got backend twice")
    backend = mark.kwargs.get("backend", mark.args[0] if mark.args else "gloo")
    if not isinstance(backend, str) or not _is_well_formed(backend):
        allowed = f"allowed are the name of a backend such as 'gloo', {PAIRS}"
        raise MarkerError(f"process_group(backend={backend!r}): {allowed}")
    return backend


def _is_well_formed(backend: str) -> bool:
    """Whether it is a name, or pairs of different devices and names."""
    pairs = [pair.split(":") for pair in backend.split(",")]
    if pairs == [[backend]]:
        return bool(backend)
    devices = {pair[0] for pair in pairs}
    return all(len(pair) == 2 and all(pair) for pair in pairs) and len(devices) == len(pairs)
