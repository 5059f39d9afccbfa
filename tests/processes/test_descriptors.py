"""Wake-ups, files in memory and the limit of descriptors."""

from __future__ import annotations

import os
import select

import pytest

from pytest_elastic.processes import (
    Wakeup,
    descriptor_limit,
    memory_file,
    provide_descriptors,
    read_memory_file,
    wait_for,
)


def test_a_wakeup_is_readable_from_set_to_clear_and_closes_twice() -> None:
    wakeup = Wakeup()
    seen = [wait_for(wakeup.fileno(), select.POLLIN, 0)]
    wakeup.clear()
    wakeup.set()
    wakeup.set()
    seen.append(wait_for(wakeup.fileno(), select.POLLIN, 0))
    wakeup.clear()
    seen.append(wait_for(wakeup.fileno(), select.POLLIN, 0))
    wakeup.close()
    wakeup.close()
    wakeup.set()
    assert (seen, wakeup.fileno()) == ([False, True, False], -1)


def test_two_processes_read_one_memory_file_from_its_beginning() -> None:
    number = memory_file(b"payload")
    pid = os.fork()
    if pid == 0:
        os._exit(read_memory_file(number) != b"payload")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert read_memory_file(number) == b"payload"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_more_descriptors_than_the_hard_limit_are_refused_in_words() -> None:
    provide_descriptors(1, "ranks")
    if descriptor_limit() >= 0:
        with pytest.raises(OSError, match=r"ranks need about \d+ file descriptors, and the hard limit is"):
            provide_descriptors(1 << 40, "ranks")
