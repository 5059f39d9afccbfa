"""Test suites and decorators for authors of stores and of rank functions.

`check_store` checks a store against the contract, `faults` tests a rank function under faults,
`raises_on_ranks` expects an error on some ranks.  All raise `AssertionError` and need no test runner.
"""

from pytest_elastic.launch import raises_on_ranks
from pytest_elastic.testing._faults import faults
from pytest_elastic.testing._store import check_store

__all__ = ["check_store", "faults", "raises_on_ranks"]
