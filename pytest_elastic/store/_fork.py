"""What a forked child does with descriptors that it inherits and must not use."""

from __future__ import annotations

import weakref
from typing import Protocol

from pytest_elastic.pristine import os


class Forked(Protocol):
    """Something that a fork copies into the child although only the parent may use it."""

    def after_fork(self) -> None:
        """Let go of it, in the child; the parent's is untouched."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(one: Forked) -> None:
    """Call its `after_fork` in every child that this process forks, while it lives."""
    _watched.add(one)


def _let_go() -> None:
    for one in list(_watched):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
