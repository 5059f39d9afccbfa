"""Loggers of ranks."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pytest_elastic.pristine import os


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger of this name, at the level that the environment's `LOGLEVEL` says (`WARNING` by default).

    The level is set at each call; handlers and propagation are left alone.

    Args:
        name: `None` and `""` mean the module of the calling code, or the stem of its file if it has none.

    Raises:
        ValueError: there is no such level; names are upper case.
    """
    logger = logging.getLogger(name or _caller(2))
    logger.setLevel(os.environ.get("LOGLEVEL", "WARNING"))
    return logger


def _caller(depth: int) -> str:
    frame = sys._getframe(depth)
    return frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).stem
