"""Functions by value."""

from __future__ import annotations

import threading

import pytest

from pytest_elastic.launch import _byvalue

SCALE = 3


def at_module_level(x):
    return x * SCALE


def there_and_back(value):
    return _byvalue.loads(_byvalue.dumps(value))


def test_named_functions_go_by_name():
    """What has an importable name is the same object again."""
    assert there_and_back(at_module_level) is at_module_level
    assert there_and_back([len, str.upper]) == [len, str.upper]


def test_lambda_with_closure_and_globals():
    """Code, closure, defaults; globals by the module's name."""
    offset = 5
    assert there_and_back(lambda x, y=2, *, z=1: at_module_level(x) + offset + y + z)(1) == 11


def test_recursion():
    """A local function that refers to itself."""

    def down(n):
        return n if n == 0 else down(n - 1)

    assert there_and_back(down)(5) == 0


def test_mutual_recursion_and_shared_cells():
    """Functions that refer to each other stay connected."""

    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert [there_and_back(even)(n) for n in range(4)] == [True, False, True, False]


def test_empty_cell():
    """A variable that has no value yet has none on the other side."""

    def early():
        return later

    sent = there_and_back(early)
    with pytest.raises(NameError):
        sent()
    later = 1
    assert early() == later


def test_attributes_and_modules():
    """Function attributes travel; modules go by name."""

    def decorated():
        return threading.main_thread

    decorated.tag = "kept"
    module = threading
    assert there_and_back(decorated).tag == "kept"
    assert there_and_back(lambda: module)() is threading


@pytest.mark.parametrize("value", [threading.Lock(), lambda x=threading.Lock(): x])
def test_what_cannot_be_sent(value):
    """One clear error, also from deep inside."""
    with pytest.raises(TypeError, match=r"cannot be sent to the ranks: cannot pickle '_thread\.lock' object"):
        _byvalue.dumps(value)


def test_a_local_class_cannot_be_sent():
    """The error says what is allowed."""

    class Local:
        pass

    with pytest.raises(TypeError, match="define classes at module level"):
        _byvalue.dumps(Local())
