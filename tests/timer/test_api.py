"""`configure`, `expires`, and requests as values."""

from __future__ import annotations

import inspect
import logging
import math
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import ANY, Mock

import pytest

from pytest_elastic import timer
from pytest_elastic.timer import FileTimerRequest, TimerClient, TimerRequest, configure, expires
from pytest_elastic.timer._requests import Origin, Scope, to_monotonic


class Spy(TimerClient):
    """A client that writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self.calls.append(("acquire", scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        self.calls.append(("release", scope_id))

    def scopes(self) -> list[str]:
        """Those acquired, in order."""
        return [call[1] for call in self.calls if call[0] == "acquire"]


@pytest.fixture
def spy() -> Spy:
    return Spy()


def line_before() -> str:
    """The scope of the line before the one that calls."""
    frame = inspect.stack()[1]
    return f"{frame.filename}#{frame.lineno - 1}"


def test_importing_it_imports_neither_torch_nor_pytest() -> None:
    """Nor what either needs."""
    code = (
        "import sys, pytest_elastic.timer as t; [getattr(t, n) for n in t.__all__];"
        "print(*(m for m in ('torch', 'pytest', '_pytest', 'psutil', 'asyncio') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_names_are_there() -> None:
    assert sorted(timer.__all__) == timer.__all__
    assert len(timer.__all__) == 12


def test_a_request_is_equal_by_value_and_unhashable() -> None:
    """Where it was made is no part of its value."""
    request = TimerRequest("worker", "scope", 1.5)
    assert request == TimerRequest("worker", "scope", 1.5, origin=Origin(1, 2, 3.0))
    assert request != TimerRequest("worker", "scope", 2)
    assert repr(request) == "TimerRequest(worker_id='worker', scope_id='scope', expiration_time=1.5)"
    with pytest.raises(TypeError):
        hash(request)


def test_a_request_pickles_with_its_origin() -> None:
    request = pickle.loads(pickle.dumps(TimerRequest(1, "scope", 1.5, origin=Origin(1, 2, 3.0))))
    assert request == TimerRequest(1, "scope", 1.5)
    assert request.origin == Origin(1, 2, 3.0)


def test_requests_of_different_types_are_not_equal() -> None:
    assert FileTimerRequest(1, "scope", 1.5) != TimerRequest(1, "scope", 1.5)
    assert TimerRequest(1, "scope", 1.5) != FileTimerRequest(1, "scope", 1.5)


@pytest.mark.parametrize("client", ["a client", 5, object()])
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="acquire and release"):
        configure(client)


def test_none_takes_the_client_away(spy: Spy) -> None:
    """And the body does not run without one."""
    configure(spy)
    configure(None)
    with pytest.raises(RuntimeError, match=r"^Configure timer client before using countdown timers.$"):
        with expires(1):
            raise AssertionError("the body ran")


def test_a_client_that_is_passed_wins(spy: Spy) -> None:
    other = Spy()
    configure(other)
    with expires(1, client=spy) as value:
        assert value is None
    assert other.calls == []
    assert len(spy.calls) == 2


def test_a_client_is_called_once_each_with_positional_arguments() -> None:
    """On the scale of `time.time()`."""
    client = Mock(spec=["acquire", "release"])
    before = time.time()
    with expires(5, scope="exchange", client=client):
        pass
    client.acquire.assert_called_once_with("exchange", ANY)
    client.release.assert_called_once_with("exchange")
    assert before + 5 <= client.acquire.call_args.args[1] <= time.time() + 5


def test_the_default_scope_is_the_with_line(spy: Spy) -> None:
    with expires(1, client=spy):
        scope = line_before()
    assert spy.scopes() == [scope]


def test_each_line_has_a_scope_of_its_own(spy: Spy) -> None:
    """In one statement as well."""
    with (
        expires(1, client=spy),
        expires(1, client=spy),
    ):
        with expires(1, client=spy):
            pass
    assert len(set(spy.scopes())) == 3


def test_the_scope_is_the_callers_through_an_exit_stack(spy: Spy) -> None:
    """Never a line of the standard library."""
    with ExitStack() as stack:
        stack.enter_context(expires(1, client=spy))
        scope = line_before()
    assert spy.scopes() == [scope]


def test_a_decorators_scope_is_the_definition(spy: Spy) -> None:
    """Not the line that calls, nor the one that made the decorator."""
    limited = expires(1, client=spy)

    def function() -> None:
        """Does nothing."""

    limited(function)()
    assert [f"{__file__}#{function.__code__.co_firstlineno}"] == spy.scopes()


def test_a_decorator_arms_anew_at_each_call(spy: Spy) -> None:
    """And is the function to its callers."""

    @expires(1, scope="add", client=spy)
    def add(left: int, right: int) -> int:
        """Sum."""
        return left + right

    assert [add(1, 2), add(3, right=4)] == [3, 7]
    assert spy.scopes() == ["add", "add"]
    assert (add.__name__, add.__doc__) == ("add", "Sum.")
    assert spy.calls[0][2] < spy.calls[2][2]


def test_a_decorated_recursion_arms_at_each_level(spy: Spy) -> None:

    @expires(1, client=spy)
    def recurse(levels: int) -> None:
        if levels > 1:
            recurse(levels - 1)

    recurse(3)
    assert [call[0] for call in spy.calls] == ["acquire"] * 3 + ["release"] * 3
    assert len(set(spy.scopes())) == 1


def test_a_callable_object_can_be_decorated(spy: Spy) -> None:
    """Its scope is the decorator's line."""
    client = spy
    assert expires(1, client=client)("a".__add__)("b") == "ab"  # type: ignore[arg-type]
    assert spy.scopes()[0].startswith(__file__)


def test_what_runs_after_its_call_is_refused(spy: Spy) -> None:
    """A timer around such a call would end before the body begins."""

    async def coroutine() -> None:
        """Does nothing."""

    def generator() -> Iterator[int]:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match="runs after its call"):
            expires(1, client=spy)(function)


def test_the_bodys_exception_passes_after_the_release(spy: Spy) -> None:
    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        with expires(1, client=spy):
            raise error
    assert caught.value is error
    assert spy.calls[-1][0] == "release"


def test_a_release_that_fails_is_a_warning(spy: Spy, caplog: pytest.LogCaptureFixture) -> None:
    """With a body that passed, and with one that raised."""
    spy.release = Mock(side_effect=BrokenPipeError("gone"))  # type: ignore[method-assign]
    with expires(1, "exchange", client=spy):
        pass
    with pytest.raises(KeyError):
        with expires(1, "exchange", client=spy):
            raise KeyError
    texts = ["timer \"exchange\" could not be released: BrokenPipeError('gone')"] * 2
    assert texts == [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_an_acquire_that_fails_raises_before_the_body(spy: Spy) -> None:
    """And nothing is released."""
    spy.acquire = Mock(side_effect=BrokenPipeError)  # type: ignore[method-assign]
    with pytest.raises(BrokenPipeError):
        with expires(1, client=spy):
            raise AssertionError("the body ran")
    assert spy.calls == []


@pytest.mark.parametrize("after", [0, -1, -1e12, -math.inf])
def test_no_span_is_expired_at_once_and_never_a_release(spy: Spy, after: float) -> None:
    before = time.time()
    with expires(after, client=spy):
        pass
    assert before <= spy.calls[0][2] <= time.time()


def test_an_infinite_span_never_expires(spy: Spy) -> None:
    with expires(math.inf, client=spy):
        pass
    assert math.inf == spy.calls[0][2]


@pytest.mark.parametrize(("after", "error"), [(math.nan, ValueError), ("5", TypeError), (None, TypeError)])
def test_what_is_no_span_is_refused_before_any_request(spy: Spy, after: Any, error: Any) -> None:
    with pytest.raises(error):
        expires(after, client=spy)
    assert spy.calls == []


def test_the_client_that_armed_is_the_one_that_releases(spy: Spy) -> None:
    """A body that configures another client does not leave its own timer armed."""
    configure(spy)
    with expires(1):
        configure(None)
    assert [call[0] for call in spy.calls] == ["acquire", "release"]


def test_a_scope_knows_its_line_and_is_a_text(spy: Spy) -> None:
    """A report can say where a named timer was armed."""
    with expires(1, "exchange", client=spy):
        where = line_before()
    scope = spy.scopes()[0]
    assert isinstance(scope, Scope)
    assert (scope, f"{scope.file}#{scope.line}") == ("exchange", where)
    assert pickle.loads(pickle.dumps(scope)) == "exchange"


def test_the_monotonic_point_does_not_depend_on_when_it_is_asked() -> None:
    """Two readings differ by less than what a deadline's equality allows."""
    wall = time.time() + 100
    points = [to_monotonic(wall) for _ in range(100)]
    assert max(points) - min(points) < 1e-4
    assert math.inf == to_monotonic(math.inf)
