"""Both kinds of crews, by name."""

from __future__ import annotations

import pytest

from pytest_elastic.simulator import _simulation
from pytest_elastic.simulator._crew import GreenletCrew, ThreadCrew


@pytest.fixture(params=[ThreadCrew, GreenletCrew], ids=["threads", "greenlets"])
def crew(request, monkeypatch):
    """Simulations of this test run on this kind of crew."""
    monkeypatch.setattr(_simulation, "make_crew", request.param)
    return request.param
