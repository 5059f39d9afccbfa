"""Hello from every rank: the test body runs N times, in N processes, and is one test."""


def test_hello(rank, world_size):
    print(f"hello from rank {rank} of {world_size}")
    assert 0 <= rank < world_size
