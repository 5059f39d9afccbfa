"""Calls: what must be alike, how they read, where they come from.  Contexts: whose collectives are seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from pytest_elastic import collectives
from pytest_elastic.collectives import RankContext, current, use_in_thread, use_store
from pytest_elastic.collectives._call import Call, Place, Tensor, find_place

FOUR = Tensor("float32", (4,), 4, 4, "cpu")


@pytest.mark.parametrize(
    ("call", "signature", "text"),
    [
        (Call("barrier"), "barrier\t\t\t\t", "barrier()"),
        (
            Call("all_reduce", (FOUR,), reduction="SUM"),
            "all_reduce\t\tSUM\tfloat32\t4",
            "all_reduce(float32[4], SUM)",
        ),
        (
            Call("broadcast", (FOUR._replace(shape=(2, 2), device="cuda"),), root=3),
            "broadcast\t3\t\tfloat32\t4",
            "broadcast(float32[2, 2] cuda, from 3)",
        ),
        (Call("reduce", (FOUR,), 1, "MAX"), "reduce\t1\tMAX\tfloat32\t4", "reduce(float32[4], MAX, to 1)"),
        (Call("send", (FOUR,), peer=2), "message\t\t\tfloat32\t4", "send(float32[4], to 2)"),
        (Call("recv", (FOUR,), peer=0), "message\t\t\tfloat32\t4", "recv(float32[4], from 0)"),
        (
            Call("all_to_all", (FOUR, FOUR), sends=(4, 4), expects=(4, 4)),
            "all_to_all\t\t\tfloat32\t",
            "all_to_all(float32[4], float32[4])",
        ),
        (Call("new_group", what="ranks=[0, 1]"), "new_group\t\t\t\tranks=[0, 1]", "new_group(ranks=[0, 1])"),
        (
            Call("all_reduce_coalesced", (FOUR,) * 6, reduction="SUM"),
            "all_reduce_coalesced\t\tSUM\tfloat32\t4,4,4,4,4,4",
            "all_reduce_coalesced(float32[4], float32[4], float32[4], float32[4], 2 more, SUM)",
        ),
    ],
    ids=lambda one: one.operation if isinstance(one, Call) else "",
)
def test_signatures_and_texts(call, signature, text):
    assert call.signature() == signature
    assert call.text() == text


def test_a_call_as_bytes():
    """The signature, and the fields of the event."""
    first, _, detail = (
        Call("broadcast", (FOUR, FOUR), root=3).encode((3, 5), Place("t.py:7", "f")).partition(b"\n")
    )
    assert first == b"broadcast\t3\t\tfloat32\t4,4"
    assert json.loads(detail) == {
        "members": [3, 5],
        "operation": "broadcast",
        "text": "broadcast(float32[4], float32[4], from 3)",
        "root": 3,
        "reduction": "",
        "dtype": "float32",
        "shape": "[4], [4]",
        "size": 32,
        "place": "t.py:7",
        "via": "f",
    }


def test_the_place_is_the_users():
    place = find_place()
    assert (
        place.line
        == f"{__file__}:{find_place.__code__ and test_the_place_is_the_users.__code__.co_firstlineno + 1}"
    )
    assert place.via == ""


def test_contexts():
    """Of the process, of a thread; none when it is off, nor in a fork."""
    try:
        context = use_store("store", 1, 4, "carry")
        assert current() is context
        context.counts["x"] += 1
        again = use_store("another", 1, 4)
        assert (again.store, again.mode, again.counts["x"]) == ("another", "check", 0)
        seen = []

        def thread():
            own = RankContext("mine", 2, 4)
            use_in_thread(own)
            seen.append(current() is own)
            use_in_thread(None)
            seen.append(current() is again)

        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
        assert seen == [True, True]
        if (pid := os.fork()) == 0:
            os._exit(current() is not None)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        assert use_store("store", 1, 4, "off") is None
    assert current() is None


def test_without_torch_nothing_is_installed():
    """A finder waits for torch's module, once; an older torch is told of in a sentence."""
    code = """
import sys, warnings
from pytest_elastic import collectives
collectives.install(); collectives.install(); collectives.preload()
assert "torch" not in sys.modules
assert sum(type(one).__module__.startswith("pytest_elastic") for one in sys.meta_path) == 1
class Torch: __version__ = "2.9.1+cpu"
sys.modules["torch"] = Torch
sys.modules["torch.distributed.distributed_c10d"] = Torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    collectives.install()
print(caught[0].message)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "collectives are not checked: torch 2.9.1+cpu is older than 2.10"


def test_modes():
    assert collectives.MODES == ("check", "carry", "off")
