"""A write that is lost: it has no effect, and its caller is told that it had."""

from __future__ import annotations

from pytest_elastic.store import OPERATIONS, Call, StoreState, Waiter

WRITES = frozenset(name for name, operation in OPERATIONS.items() if operation.writes)


def lost_answer(state: StoreState, operation: Call) -> object:
    """What the state would answer to a write, which it does not see.

    Args:
        operation: name and arguments, one of `WRITES`.

    Raises:
        Exception: what the operation would raise.
    """
    name, *arguments = operation
    if not OPERATIONS[name].answer:
        return None
    other = StoreState(state.wake)
    key = str(arguments[0])
    value = state.get(key)
    if isinstance(value, Waiter):
        state.abandon(value)
    else:
        other.set(key, value)
    return other.apply(operation)
