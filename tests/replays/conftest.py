"""Gates in a row, driven by hand."""

from gates import clock, rig

__all__ = ["clock", "rig"]
