"""Test suites and decorators for authors of stores and of functions on ranks.

`check_store` holds a store to the contract, `faults` makes a test of a rank function and what goes wrong,
`raises_on_ranks` expects an error on some ranks.  No runner is needed: all raise `AssertionError`.
"""

from pytest_elastic.launch import raises_on_ranks
from pytest_elastic.testing._faults import faults
from pytest_elastic.testing._store import check_store

__all__ = ["check_store", "faults", "raises_on_ranks"]
