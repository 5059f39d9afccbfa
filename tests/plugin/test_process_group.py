"""The marker `process_group`: checked like `elastic`; a backend that cannot be had is a skip with its reason."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

BAD = {
    "'gloo', 'nccl'": "process_group() takes one positional argument, backend, not 2",
    "backnd='nccl'": "process_group() has no argument 'backnd'; allowed is backend",
    "'gloo', backend='nccl'": "process_group() got backend twice",
    "backend=None": "process_group(backend=None): allowed are *, or 'cpu:gloo,cuda:nccl'",
    "backend=''": "process_group(backend=''): allowed are *",
    "['gloo']": "process_group(backend=[[]'gloo'[]]): allowed are *",
    "'cpu:gloo,cuda'": "process_group(backend='cpu:gloo,cuda'): allowed are *",
    "'cpu:gloo,cpu:mpi'": "process_group(backend='cpu:gloo,cpu:mpi'): allowed are *",
    "'cpu:,cuda:nccl'": "process_group(backend='cpu:,cuda:nccl'): allowed are *",
}


def test_a_bad_process_group_is_a_collection_error(run):
    """It points at the test's file and line and says what is allowed; torch is not imported for it."""
    files = {
        f"test_bad_{number}": f"""
import pytest

@pytest.mark.process_group({arguments})
def test_it(process_group): pass
"""
        for number, arguments in enumerate(BAD)
    }
    conftest = """
import sys
def pytest_unconfigure(): print("torch" in sys.modules and "torch was imported")
"""
    result = run("", conftest=conftest, **files)
    result.assert_outcomes(errors=len(BAD))
    for number, text in enumerate(BAD.values()):
        result.stdout.fnmatch_lines([f"*test_bad_{number}.py:3: {text}"])
    assert "torch was imported" not in result.stdout.str()


@needs_torch
def test_the_backend_is_the_one_that_was_asked_for(run_with_libraries):
    """By position or by name, in capitals, as pairs, or one that was registered, as late as in a fixture."""
    result = run_with_libraries(
        """
        import pytest, torch.distributed

        def backend():
            return torch.distributed.get_backend()

        @pytest.fixture
        def registered():
            dist = torch.distributed
            make = lambda store, rank, size, timeout: dist.ProcessGroupGloo(store, rank, size, timeout)
            dist.Backend.register_backend("own", make, devices=["cpu"])

        @pytest.mark.process_group("GLOO")
        def test_position(process_group): assert backend() == "gloo"

        @pytest.mark.process_group(backend="cpu:gloo")
        def test_pairs(process_group): assert backend() == "cpu:gloo"

        @pytest.mark.process_group("own")
        def test_registered(registered, process_group): assert backend() == "own"
        """
    )
    result.assert_outcomes(passed=3)


@needs_torch
def test_a_backend_that_cannot_be_had_is_a_skip_with_its_reason(run_with_libraries):
    """Not built, or without a device; one that nobody knows is an error."""
    result = run_with_libraries(
        """
        import pytest, torch

        @pytest.fixture
        def built(monkeypatch):
            monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)

        @pytest.fixture(autouse=True)
        def not_built(monkeypatch):
            monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
            monkeypatch.setattr(torch.distributed, "is_mpi_available", lambda: False)
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        @pytest.mark.process_group("nccl")
        def test_nccl(process_group): pass

        @pytest.mark.process_group(backend="mpi")
        def test_mpi(process_group): pass

        @pytest.mark.process_group("cpu:gloo,cuda:nccl")
        def test_pairs(process_group): pass

        @pytest.mark.process_group("nccl")
        def test_no_device(built, process_group): pass

        @pytest.mark.process_group("glo")
        def test_unknown(process_group): pass

        @pytest.mark.process_group("cpu:glo,cuda:nccl")
        def test_unknown_in_a_pair(process_group): pass
        """,
        "-rs",
    )
    result.assert_outcomes(skipped=4, errors=2)
    text = result.stdout.str()
    assert text.count("process_group(backend='nccl'): this torch is built without nccl") == 1
    assert "process_group(backend='mpi'): this torch is built without mpi" in text
    assert "process_group(backend='cpu:gloo,cuda:nccl'): this torch is built without nccl" in text
    assert "process_group(backend='nccl'): nccl needs a CUDA device, and there is none" in text
    result.stdout.fnmatch_lines(
        [
            "*.py:25: process_group(backend='glo'): allowed are 'elastic', 'fake', 'gloo', 'mpi', 'nccl', *",
            "*.py:28: process_group(backend='cpu:glo,cuda:nccl'): allowed are 'elastic', 'fake', *",
        ]
    )
