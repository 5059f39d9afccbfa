"""A write that is lost: it has no effect, and its caller is told that it had."""

from __future__ import annotations

from pytest_elastic.store._state import Operation, StoreState, Waiter

WRITES = frozenset(
    {
        "set",
        "add",
        "compare_set",
        "delete_key",
        "append",
        "multi_set",
        "queue_push",
        "arrive",
        "barrier",
    }
)
_ANSWERED = ("add", "arrive", "compare_set", "delete_key")  # By what the state says; the others by `None`.


def lost_answer(state: StoreState, operation: Operation) -> object:
    """What the state would answer to a write, which it does not see.

    Args:
        operation: name and arguments, one of `WRITES`.

    Raises:
        Exception: what the operation would raise.
    """
    name, *arguments = operation
    if name not in _ANSWERED:
        return None
    other = StoreState(state.wake)
    key = str(arguments[0])
    value = state.get(key)
    if isinstance(value, Waiter):
        state.abandon(value)
    else:
        other.set(key, value)
    return other.apply(operation)
