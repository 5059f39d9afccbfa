"""`Std`: a rank's output streams as flags."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import IntFlag

IS_WINDOWS = sys.platform == "win32"

_FLAG = "[0-3]"
_MAP = "[0-9]+:[0-3](?:,[0-9]+:[0-3])*"


class Std(IntFlag):
    """Output streams of a rank: none, stdout, stderr or both.

    >>> Std.OUT | Std.ERR
    <Std.ALL: 3>
    """

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3

    @classmethod
    def from_str(cls, vm: str) -> Std | dict[int, Std]:
        """Parse a flag for all ranks, `"3"`, or one for each, `"0:3,1:0"`; a rank's last entry counts.

        >>> Std.from_str("0:1,1:3")
        {0: <Std.OUT: 1>, 1: <Std.ALL: 3>}

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
    """The flag of each rank; `Std.NONE` for ranks that a map does not name.

    >>> to_map({1: Std.OUT}, 2)
    {0: <Std.NONE: 0>, 1: <Std.OUT: 1>}

    Raises:
        TypeError: neither a flag (an `int` from 0 to 3 is one) nor a map of flags.
    """
    if isinstance(val_or_map, Mapping):
        return {rank: to_flag(val_or_map.get(rank, Std.NONE)) for rank in range(local_world_size)}
    return dict.fromkeys(range(local_world_size), to_flag(val_or_map))


def to_flag(value: object) -> Std:
    """A `Std` of an int from 0 to 3.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= Std.ALL:
        return Std(value)
    raise TypeError(f"a Std (0 to 3), or a map of rank to Std, is needed, not {value!r}")
