"""Both kinds of crews, by name."""

from __future__ import annotations

import pytest

from pytest_elastic.simulator import _world
from pytest_elastic.simulator._task import GreenletCrew, ThreadCrew


@pytest.fixture(params=[ThreadCrew, GreenletCrew], ids=["threads", "greenlets"])
def crew(request, monkeypatch):
    """Simulations of this test run on this kind of crew."""
    monkeypatch.setattr(_world, "make_crew", request.param)
    return request.param
