"""28: the end of a pipe never comes, since a process that was started on the way holds it open."""

import os
import subprocess

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [1], []
CAUSE = "sleep 60"


def talk(inherited):
    reading, writing = os.pipe()
    process = subprocess.Popen(["sleep", "60"], pass_fds=[writing] if inherited else [])
    os.close(writing)
    try:
        return os.read(reading, 1)  # stands
    finally:
        process.kill()
        process.wait()
        os.close(reading)


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(world):
    if world.rank == 1:
        talk(True)
    world.barrier("epoch")


@pytest.mark.elastic(nprocs=2)
def test_fixed(world):
    if world.rank == 1:
        assert talk(False) == b""
    world.barrier("epoch")
