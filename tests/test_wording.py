"""The words for ranks, signals and exit codes."""

from __future__ import annotations

import signal

import pytest

from pytest_elastic.wording import exit_label, exit_text, name_ranks, plural, read_exits


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([], "ranks "),
        ([1], "rank 1"),
        ([2, 2], "rank 2"),
        ([5, 1, 0, 2], "ranks 0-2, 5"),
        ((0, 2), "ranks 0, 2"),
    ],
)
def test_ranks_that_follow_each_other_are_a_range(ranks, text):
    assert name_ranks(ranks) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-63, "was killed by signal 63"),
    ],
)
def test_an_exit_is_told_by_its_code_or_the_name_of_its_signal(code, text):
    assert exit_text(code) == text
    assert exit_label(code) == text.removeprefix("was ")


def test_a_verb_agrees_with_its_subjects():
    assert plural("was killed by SIGKILL", [1]) == "was killed by SIGKILL"
    assert plural("was killed by SIGKILL", [1, 2]) == "were killed by SIGKILL"
    assert plural("exited with code 3", [1, 2]) == "exited with code 3"


def test_expected_exits_are_signals_or_exit_codes_of_ranks_of_the_test():
    assert read_exits({0: "SIGTERM", 1: signal.SIGKILL, 2: 3, 3: -9}, 4) == {0: -15, 1: -9, 2: 3, 3: -9}
    for wrong in ([1], {4: 0}, {True: 0}, {0: "SIGNONE"}, {0: 256}, {0: -99}, {0: 1.0}):
        with pytest.raises(ValueError, match="allowed is a dict of rank to a signal's name"):
            read_exits(wrong, 4)
