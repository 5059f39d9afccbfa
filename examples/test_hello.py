"""Hello from every rank: the test runs in N processes, and is one test to pytest."""


def test_hello(rank, world_size):
    print(f"hello from rank {rank} of {world_size}")
    assert 0 <= rank < world_size
