"""Interleaving of an execution as a table: a line for each step, a column for each rank, races marked.

*Rules.*  Two steps race if they touch a key, one of them changes it, and the later one could have come first:
it was possible where the earlier one was chosen.  Ranks that come to a barrier or a meeting one after the
other do not race.  Of a long execution the end is shown.  Where the columns do not fit into a line, each step
has its rank before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_elastic.scheduling import Step
from pytest_elastic.simulator._execution import Execution
from pytest_elastic.store import OPERATIONS, Effect

_MOST, _LINE, _CELL, _LEAST = 40, 110, 36, 14  # Steps; characters of a line, of a cell at most, and at least.
_LOOKS = frozenset({Effect.READ, Effect.PRESENCE, Effect.LIST, Effect.LENGTH})
_GATHERS = frozenset({Effect.ARRIVE, Effect.MEET, Effect.ANNOUNCE, Effect.EXCHANGE})


def interleaving(execution: Execution) -> str:
    """The table, or `""` where fewer than two ranks did anything."""
    steps, ranks = execution.steps, execution.setting.ranks
    if len({step.rank for step in steps}) < 2:
        return ""
    racing = races(execution)
    first = max(0, len(steps) - _MOST)
    texts = [str(step).partition(": ")[2] for step in steps[first:]]
    width = min(_CELL, (_LINE - 6) // ranks - 4, max(map(len, texts)))
    lines = ["the steps in their order" + ("; those with a * race:" if racing else ":")]
    if width >= _LEAST:
        lines.append("     " + "".join(f"  {f'rank {rank}':{width + 2}}" for rank in range(ranks)).rstrip())
    if first:
        lines.append(f"     … {first} steps before")
    for number, text in enumerate(texts, first):
        mark, rank = "*" if number in racing else " ", steps[number].rank
        if width < _LEAST:
            lines.append(f"{number:4} {mark} rank {rank}: {text}")
            continue
        shown = text if len(text) <= width else f"{text[: width - 1]}…"
        lines.append(f"{number:4} {' ' * (width + 4) * rank}{mark} {shown}")
    return "\n".join(lines)


def races(execution: Execution) -> set[int]:
    """The numbers of the steps that race with another one."""
    found: set[int] = set()
    for number, (step, others) in enumerate(zip(execution.steps, execution.enabled, strict=True)):
        rivals = {other.rank: other for other in others if other.rank != step.rank and conflict(step, other)}
        for later in range(number + 1, len(execution.steps)):
            rival = rivals.pop(execution.steps[later].rank, None)
            if rival == execution.steps[later]:
                found |= {number, later}
            if not rivals:
                break
    return found


def conflict(one: Step, other: Step) -> bool:
    """Whether the order of two steps can matter."""
    effects: Sequence[Effect] = [
        OPERATIONS[step.name].effect for step in (one, other) if step.name in OPERATIONS
    ]
    if (
        len(effects) < 2
        or _LOOKS.issuperset(effects)
        or (effects[0] is effects[1] and effects[0] in _GATHERS)
    ):
        return False
    first, second = one.keys, other.keys
    return first is None or second is None or not set(first).isdisjoint(second)
