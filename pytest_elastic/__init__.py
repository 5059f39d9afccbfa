"""Test code that runs on many ranks the way you test the rest: with pytest.

The map, from the bottom up; a part imports only parts above it in this list:

* `errors`, `clock`, `events`, `logging`: the words.
* `store`: one pure state machine and its carriers (threads, processes), `get_all`, `synchronize`, `barrier`.
* `timer`: expiring timers that kill the rank that hangs.
* `hang`: who waits for whom, and what that and the stacks say of a hang.
* `multiprocessing`: groups of processes (`PContext`), their logs, their end.
* `report`: how ranks ended, the verdict on a test, and its picture.
* `faults`: what goes wrong on purpose; recordings, and orders that are forced.
* `simulator`: rank functions under every schedule: find a hang, replay it, prove that there is none.
* `launch`: the ranks of one test: the zygote, fresh interpreters, the group.
* `strategies`: schedules, faults, keys and values for hypothesis.
* `plugin`: the door to pytest.  `testing` and `stateful`: the doors for suites of stores and launchers.
"""

__version__ = "0.1.0"
