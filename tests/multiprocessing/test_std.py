"""`Std` and the maps that are made of it."""

from __future__ import annotations

import pytest

from pytest_elastic.multiprocessing._std import IS_WINDOWS, Std, to_map


def test_flags():
    """Four values, which combine."""
    assert {flag.name: int(flag) for flag in (Std.NONE, Std.OUT, Std.ERR, Std.ALL)} == {
        "NONE": 0,
        "OUT": 1,
        "ERR": 2,
        "ALL": 3,
    }
    assert Std.OUT | Std.ERR == Std.ALL


def test_is_windows():
    """It is not: the tests run on Linux."""
    assert IS_WINDOWS is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Std.NONE),
        ("1", Std.OUT),
        ("2", Std.ERR),
        ("3", Std.ALL),
        ("0:3,1:0", {0: Std.ALL, 1: Std.NONE}),
        ("0:1,0:2", {0: Std.ERR}),
        ("10:1", {10: Std.OUT}),
    ],
)
def test_from_str(text, expected):
    """A flag for all, or one for each rank; the last wins; ranks may have several digits."""
    found = Std.from_str(text)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "11",
        "0:4",
        "0:1,",
        "0:1,1",
        "1,0:1",
        " 1",
        "0:1, 1:2",
        ":1",
        "a",
        "0\n",
        "0:1\n",
        "-1",
        "٣",
        "٣:1",
    ],
)
def test_what_is_no_std(text):
    """The error quotes the text."""
    with pytest.raises(ValueError) as caught:
        Std.from_str(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("value", [1, None, b"1", Std.OUT])
def test_what_is_no_text(value):
    """Only a `str` is parsed."""
    with pytest.raises(TypeError):
        Std.from_str(value)


@pytest.mark.parametrize(
    ("value", "count", "expected"),
    [
        (Std.OUT, 2, {0: Std.OUT, 1: Std.OUT}),
        ({1: Std.OUT, 5: Std.ALL}, 2, {0: Std.NONE, 1: Std.OUT}),
        ({0: 3}, 1, {0: Std.ALL}),
        (2, 1, {0: Std.ERR}),
        (Std.ALL, 0, {}),
        ({0: Std.ALL}, 0, {}),
    ],
)
def test_to_map(value, count, expected):
    """One entry for each rank; ints are their flags."""
    found = to_map(value, count)
    assert (found, {type(flag) for flag in found.values()} <= {Std}) == (expected, True)


@pytest.mark.parametrize("value", [4, -1, True, None, "1", 1.0, {0: "1"}])
def test_what_is_no_map(value):
    """Anything else is refused by type."""
    with pytest.raises(TypeError, match="Std"):
        to_map(value, 1)
