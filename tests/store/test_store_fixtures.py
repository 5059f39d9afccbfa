"""The stores that pytest gives to tests."""

from __future__ import annotations

from typing import Any

ABSENT = """
import sys
sys.modules["torch"] = sys.modules["torch.distributed"] = None
"""


def test_a_marker_gives_the_answers_of_a_mock_store(run: Any) -> None:
    """Anew for each test; what no store has is an error with its place."""
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        @pytest.mark.mock_store(get=[b"1", b"2"], add=7)
        def test_answers(mock_store, turn):
            assert [mock_store.get("a"), mock_store.get("a"), mock_store.add("n", 1)] == [b"1", b"2", 7]

        @pytest.mark.mock_store(read=1)
        def test_bad(mock_store): pass

        @pytest.mark.mock_store(1)
        def test_positional(mock_store): pass
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*.py:8: mock_store(): a store has no operation 'read'; it has add, *"])
    result.stdout.fnmatch_lines(["*.py:11: mock_store(): *positional argument*"])


def test_mock_and_hash_stores_are_new_for_each_test(run: Any) -> None:
    """In process, for any test; what one test did is not seen by the next."""
    run(
        """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        def test_mock(mock_store, turn):
            assert mock_store.get("key") == b"value"
            assert mock_store.ops == [("get", "key")]

        @pytest.mark.parametrize("turn", [1, 2])
        def test_hash(hash_store, turn):
            assert hash_store.add("turns", 1) == 1
        """
    ).assert_outcomes(passed=4)


def test_the_elastic_store_is_one_for_all_ranks_and_new_for_each_test(run: Any) -> None:
    """Served; every rank sees what the others wrote."""
    run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=3)
        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(elastic_store, rank, turn):
            elastic_store.set(f"rank{rank}", str(rank))
            assert elastic_store.multi_get(["rank0", "rank1", "rank2"]) == [b"0", b"1", b"2"]
            assert elastic_store.add("turns", 1) <= 3
        """
    ).assert_outcomes(passed=2)


def test_the_controller_sees_the_ranks_data(run: Any) -> None:
    """And they see the controller's."""
    run(
        """
        from pytest_elastic.launch import current_world

        def work(rank, world_size):
            store = current_world().store
            store.set(f"from/{rank}", str(rank))
            return store.get("answer")

        def test_it(elastic):
            group = elastic.start(work, nprocs=2)
            assert group.store.multi_get(["from/0", "from/1"]) == [b"0", b"1"]
            group.store.set("answer", "42")
            assert group.wait(timeout=30).return_values == {0: b"42", 1: b"42"}
        """
    ).assert_outcomes(passed=1)


def test_process_group_is_skipped_without_torch(run: Any) -> None:
    """With the reason."""
    result = run(
        """
        import pytest

        @pytest.mark.elastic(nprocs=2)
        def test_it(process_group):
            raise AssertionError("there is no torch")
        """,
        "-rs",
        conftest=ABSENT,
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*torch*"])


def test_the_exit_of_a_rank_is_told_to_the_server(run: Any) -> None:
    """By the group that saw it, under the rank's label; a copy of its socket cannot hide it."""
    run(
        """
        from pytest_elastic.launch import current_world

        def test_it(elastic):
            group = elastic.start(lambda rank, world_size: current_world().store.get("go"), nprocs=2)
            drop, told = group.server.drop, []
            group.server.drop = lambda label: (told.append(label), drop(label))
            group.store.set("go", "")
            assert group.wait(timeout=30).return_values == {0: b"", 1: b""}
            assert set(told) == {0, 1}
        """
    ).assert_outcomes(passed=1)
