"""Threads that set a key later, and threads that never touch the store."""

import faulthandler
import logging
import logging.handlers
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


def set_later(store, key, seconds):
    time.sleep(seconds)
    store.set(key, "1")


@pytest.mark.parametrize("seconds", [0.2, 1.3, 2.6])
def test_a_thread_that_sleeps_and_sets_the_key(world, seconds):
    if world.rank == 0:
        thread = threading.Thread(target=set_later, args=(world.store.clone(), "go", seconds))
        thread.start()
    world.store.wait(["go"], 20)
    if world.rank == 0:
        thread.join()


def test_a_daemon_thread(world):
    threading.Thread(target=set_later, args=(world.store, f"go/{world.rank}", 0.4), daemon=True).start()
    world.store.wait(["go/0", "go/1"], 20)
    world.barrier()


def test_a_timer(world):
    if world.rank == 1:
        timer = threading.Timer(1.4, world.store.set, ("go", "1"))
        timer.start()
    world.store.wait(["go"], 20)
    if world.rank == 1:
        timer.join()


def test_a_thread_that_sleeps_many_times(world):
    """Heartbeats, and the key at the end."""

    def beat():
        for _ in range(20):
            time.sleep(0.05)
            world.store.clone().add("beat", 1)
        world.store.clone().set("go", "1")

    if world.rank == 0:
        threading.Thread(target=beat).start()
    world.store.wait(["go"], 20)


def test_a_thread_that_polls_a_queue(world):
    """With a time-out; the main thread has put something into it before it waits."""
    work = queue.Queue()

    def serve():
        while True:
            try:
                key = work.get(timeout=0.1)
            except queue.Empty:
                continue
            if key is None:
                return
            time.sleep(0.5)
            world.store.clone().set(key, "1")

    thread = threading.Thread(target=serve)
    thread.start()
    work.put(f"go/{world.rank}")
    world.store.wait(["go/0", "go/1"], 20)
    work.put(None)
    thread.join()


def test_a_thread_that_polls_the_store(world):
    """For the peer's key, and then sets its own."""

    def serve():
        store = world.store.clone()
        while not store.check(["asked"]):
            time.sleep(0.01)
        store.set("answer", "1")

    if world.rank == 0:
        thread = threading.Thread(target=serve)
        thread.start()
        world.store.wait(["answer"], 20)
        thread.join()
    else:
        time.sleep(0.3)
        world.store.set("asked", "1")
        world.store.wait(["answer"], 20)


def test_a_thread_that_waits_in_the_store(world):
    """While the main thread waits for what it brings."""

    def serve():
        store = world.store.clone()
        store.wait(["first"], 20)
        store.set("second", "1")

    if world.rank == 0:
        thread = threading.Thread(target=serve)
        thread.start()
        world.store.clone().wait(["second"], 20)
        thread.join()
    else:
        time.sleep(0.3)
        world.store.set("first", "1")


def test_a_pool_of_threads(world):
    with ThreadPoolExecutor(3) as pool:
        done = [
            pool.submit(set_later, world.store.clone(), f"{world.rank}/{part}", 0.1 * part)
            for part in range(5)
        ]
        world.store.wait([f"{rank}/{part}" for rank in range(2) for part in range(5)], 20)
    assert all(future.done() for future in done)


def test_a_future_that_the_main_thread_waits_for(world):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(world.store.clone().wait, ["go"], 20)
        if world.rank == 1:
            time.sleep(0.3)
            world.store.set("go", "1")
        assert future.result(20) is None


def test_an_event_of_another_thread(world):
    """The main thread waits for an event with a time-out, the other one in the store."""
    came = threading.Event()

    def watch():
        world.store.clone().wait(["go"], 20)
        came.set()

    thread = threading.Thread(target=watch)
    thread.start()
    if world.rank == 1:
        time.sleep(0.3)
        world.store.set("go", "1")
    assert came.wait(20)
    thread.join()


def test_a_condition_with_a_timeout(world):
    """A thread that other threads never wake, so that it looks by itself, and then sets the key."""
    condition = threading.Condition()

    def serve():
        with condition:
            condition.wait(0.7)
        world.store.clone().set("go", "1")

    if world.rank == 0:
        threading.Thread(target=serve).start()
    world.store.wait(["go"], 20)


def test_a_listener_of_logs(world):
    records = queue.Queue()
    listener = logging.handlers.QueueListener(records, logging.NullHandler())
    listener.start()
    logger = logging.getLogger("innocent")
    handler = logging.handlers.QueueHandler(records)
    logger.addHandler(handler)
    logger.warning("rank %d comes", world.rank)
    if world.rank == 1:
        time.sleep(0.3)
    world.barrier(timeout=20)
    logger.removeHandler(handler)
    listener.stop()


def test_a_watchdog_that_would_dump(world):
    faulthandler.dump_traceback_later(20)
    if world.rank == 1:
        time.sleep(0.3)
    world.barrier(timeout=20)
    faulthandler.cancel_dump_traceback_later()


def test_a_bar(world):
    tqdm = pytest.importorskip("tqdm").tqdm
    for step in tqdm(range(5), mininterval=0.01):
        if world.rank == step % 2:
            time.sleep(0.1)
        world.barrier("step", timeout=20)


def test_a_lock_that_a_thread_holds_for_a_while(world):
    lock = threading.Lock()

    def hold():
        with lock:
            held.set()
            time.sleep(0.5)

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with lock:
        world.store.set(f"had/{world.rank}", "1")
    world.store.wait(["had/0", "had/1"], 20)
    thread.join()


def test_a_monitor_that_only_watches(world):
    """Every 50 ms, as long as the test runs."""
    over = threading.Event()

    def watch():
        while not over.wait(0.05):
            pass

    thread = threading.Thread(target=watch)
    thread.start()
    if world.rank == 1:
        time.sleep(1.3)
    world.barrier(timeout=20)
    over.set()
    thread.join()


def test_a_thread_that_computes_and_then_sets_the_key(world):
    def work():
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            sum(range(1000))
        world.store.clone().set("go", "1")

    if world.rank == 0:
        threading.Thread(target=work).start()
    world.store.wait(["go"], 20)


def test_a_weak_callback_that_sets_the_key(world):
    """An object that ends in a thread, and has the key set by that."""
    import weakref

    class Held:
        pass

    def let_go(held):
        time.sleep(0.3)
        del held

    if world.rank == 0:
        held = Held()
        weakref.finalize(held, world.store.clone().set, "go", "1")
        thread = threading.Thread(target=let_go, args=(held,))
        del held
        thread.start()
        world.store.wait(["go"], 20)
        thread.join()
    else:
        world.store.wait(["go"], 20)


def join_one_that_waits(world, key):
    waiter = threading.Thread(target=world.store.wait, args=([key],))
    waiter.start()
    waiter.join()


def test_joined_thread_whose_key_a_thread_of_a_rank_that_has_reported_brings(world):
    world.barrier("begin")
    if world.rank == 0:
        join_one_that_waits(world, "late")
    else:
        threading.Thread(target=set_later, args=(world.store, "late", 1.5), daemon=True).start()


def test_joined_thread_whose_key_another_thread_brings(world):
    world.barrier("begin")
    if world.rank == 0:
        bringer = threading.Thread(target=set_later, args=(world.store, "late", 1.5))
        bringer.start()
        join_one_that_waits(world, "late")
        bringer.join()
