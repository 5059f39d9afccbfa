"""Replays of runs on real ranks: recordings, tokens, and the order of the store's operations forced again.

An `Experiment` puts interceptors ahead of a group's store: for faults, for jitter, for an `Order`, which is a
`Recording` or what a token says.  `pytest_elastic.replays.bridge` takes recordings to the simulator and back.
"""

from pytest_elastic.replays._experiment import Experiment, read_orders, token_of
from pytest_elastic.replays._order import Order, mismatch
from pytest_elastic.replays._recording import Entry, Recording, load

__all__ = ["Entry", "Order", "Recording", "load"]
