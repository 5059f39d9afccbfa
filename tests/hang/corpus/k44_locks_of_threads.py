"""44: two threads of a rank take two locks in two orders; the other rank has passed, and is no cause."""

import threading

import pytest

VERDICT, RANKS, KEYS = "BlockedOutside", [1], []
CAUSE = "rank 1 waits for a thread to end at k44_locks_of_threads.py:"


def take(first, second, both):
    with first:
        if both is not None:
            both.wait()
        with second:  # stands
            pass


def run_threads(orders, both):
    threads = [threading.Thread(target=take, args=(*order, both)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # stands


@pytest.mark.elastic(nprocs=2, timeout=1)
def test_buggy(rank):
    one, other = threading.Lock(), threading.Lock()
    if rank == 1:
        run_threads([(one, other), (other, one)], threading.Barrier(2))


@pytest.mark.elastic(nprocs=2)
def test_fixed(rank):
    one, other = threading.Lock(), threading.Lock()
    if rank == 1:
        run_threads([(one, other), (one, other)], None)
