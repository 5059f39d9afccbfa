"""Reading what faulthandler writes."""

from __future__ import annotations

import faulthandler
import tempfile

from pytest_elastic.hang import Frame, Stack, cut_harness, fold, parse_stacks

DUMP = """\
Thread 0x00007f1 (most recent call first):
  File "/lib/python3.11/threading.py", line 324 in wait
  File "/suite/test_x.py", line 7 in helper

Current thread 0x00007f2 (most recent call first):
  File "/suite/test_x.py", line 41 in exchange
  File "/suite/test_x.py", line ??? in test_it
  File "/site-packages/_pytest/python.py", line 159 in pytest_pyfunc_call
"""


def test_parse():
    """Threads in the dump's order, frames outermost first, unknown lines as 0."""
    waiting = Stack(
        (Frame("/suite/test_x.py", 7, "helper"), Frame("/lib/python3.11/threading.py", 324, "wait")), False
    )
    frames = (
        Frame("/site-packages/_pytest/python.py", 159, "pytest_pyfunc_call"),
        Frame("/suite/test_x.py", 0, "test_it"),
        Frame("/suite/test_x.py", 41, "exchange"),
    )
    assert parse_stacks(DUMP) == [waiting, Stack(frames, True)]


def test_cut_harness():
    """Its frames go, and all before the first one; of a stack of its frames alone nothing is left."""
    stack = parse_stacks(DUMP)[1]
    assert [frame.function for frame in cut_harness(stack).frames] == ["test_it", "exchange"]
    harness = Stack((Frame("/site-packages/pluggy/_callers.py", 1, "call"),), True)
    assert cut_harness(harness) == Stack((), True)


def test_all_frames_of_the_user_stay_in_a_stack():
    """Of a rank those after its entry, also where the test goes through pytest to a fixture."""
    files = [
        "/suite/main.py",
        "/x/_pytest/main.py",
        "/suite/conftest.py",
        "/x/pytest_elastic/plugin/_runner.py",
    ]
    files += ["/x/pluggy/_manager.py", "/lib/python3.11/unittest/case.py", "/suite/test_x.py"]
    files += ["/x/_pytest/fixtures.py", "/suite/fixtures.py", "/lib/python3.11/queue.py"]
    stack = Stack(tuple(Frame(file, 1, "f") for file in files), True)
    kept = ["/suite/test_x.py", "/suite/fixtures.py", "/lib/python3.11/queue.py"]
    assert [frame.file for frame in cut_harness(stack).frames] == kept
    idle = Stack((*stack.frames[:5], Frame("/x/pytest_elastic/multiprocessing/_channel.py", 1, "f")), True)
    assert cut_harness(idle).frames == ()


def test_without_a_frame_of_the_user_the_library_is_shown():
    """As of a fixture of another plugin."""
    files = ["/bin/pytest", "/x/_pytest/python.py", "/lib/python3.11/site-packages/plug/plugin.py"]
    stack = Stack(tuple(Frame(file, 1, "f") for file in files), True)
    assert [frame.file for frame in cut_harness(stack).frames] == files[2:]


def test_cut_the_inside_of_a_store():
    """A wait in a store is one line, not the way of its bytes."""
    files = ["t.py", "/pytest_elastic/launch/_world.py", "/pytest_elastic/store/_collective.py"]
    files += ["/pytest_elastic/store/_handle.py", "/pytest_elastic/store/_client.py"]
    stack = Stack(tuple(Frame(file, 1, "f") for file in files), True)
    assert [frame.file for frame in cut_harness(stack).frames] == files[:4]


def test_what_faulthandler_writes_is_understood():
    """The real thing, from this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        stack = next(stack for stack in parse_stacks(file.read()) if stack.current)
    assert stack.frames[-1].function == "test_what_faulthandler_writes_is_understood"


def test_other_text_is_no_stack():
    """Half a dump and noise are passed over."""
    assert parse_stacks('Fatal Python error: Segmentation fault\n\n  File "x", line 1 in f\n') == []


def test_fold():
    """Ranks with equal stacks are together, in the order of their first."""
    one, other = parse_stacks(DUMP)
    assert fold({2: [one], 0: [other], 1: [one]}) == [([0], [other]), ([1, 2], [one])]
