"""Inner sessions of these tests import torch."""

import pytest


@pytest.fixture
def run(run_with_libraries):
    """Run pytest in a fork that has torch imported."""
    return run_with_libraries
