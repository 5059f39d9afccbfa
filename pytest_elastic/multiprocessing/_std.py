"""`Std`: which of a rank's two output streams something is about."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import IntFlag

IS_WINDOWS = sys.platform == "win32"

_FLAG = "[0-3]"
_MAP = "[0-9]+:[0-3](?:,[0-9]+:[0-3])*"


class Std(IntFlag):
    """Neither stream, one, or both."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3

    @classmethod
    def from_str(cls, vm: str) -> Std | dict[int, Std]:
        """Parse a flag for all ranks, `"3"`, or one for each, `"0:3,1:0"` (of a rank named twice, the last).

        Raises:
            TypeError: not a string.
            ValueError: not in this grammar.
        """
        if not isinstance(vm, str):
            raise TypeError(f"a Std is parsed from a str, not from {type(vm).__name__}")
        if re.fullmatch(_FLAG, vm):
            return cls(int(vm))
        if re.fullmatch(_MAP, vm):
            pairs = (entry.split(":") for entry in vm.split(","))
            return {int(rank): cls(int(flag)) for rank, flag in pairs}
        raise ValueError(f"{vm!r} is neither a flag (0 to 3) nor a map of them, such as 0:3,1:0")


def to_map(val_or_map: Std | Mapping[int, Std], local_world_size: int) -> dict[int, Std]:
    """The flag of each rank, `Std.NONE` for ranks that a map does not name.

    Raises:
        TypeError: neither a flag (an `int` from 0 to 3 is one) nor a map of flags.
    """
    if isinstance(val_or_map, Mapping):
        return {rank: to_flag(val_or_map.get(rank, Std.NONE)) for rank in range(local_world_size)}
    return dict.fromkeys(range(local_world_size), to_flag(val_or_map))


def to_flag(value: object) -> Std:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= Std.ALL:
        return Std(value)
    raise TypeError(f"a Std (0 to 3), or a map of rank to Std, is needed, not {value!r}")
