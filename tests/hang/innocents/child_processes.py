"""Ranks that have children: which set keys, end late, or only keep house."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=60)


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def put(queue, seconds):
    time.sleep(seconds)
    queue.put("done")


def test_a_child_that_ends_late(world):
    if world.rank == 0:
        assert subprocess.run(["sleep", "0.5"], check=True).returncode == 0
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_a_child_that_lives_through_a_barrier(world):
    child = subprocess.Popen(["sleep", "0.7"])
    if world.rank == 1:
        time.sleep(0.2)
    world.barrier(timeout=30)
    assert child.wait() == 0


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_a_fork_whose_end_a_thread_tells(world, seconds):
    """A thread waits for the child, and sets the key; both main threads wait in the store."""
    if world.rank == 0:
        child = os.fork()
        if child == 0:
            time.sleep(seconds)
            os._exit(0)

        def watch():
            assert os.waitpid(child, 0)[1] == 0
            world.store.clone().set("go", "1")

        thread = threading.Thread(target=watch)
        thread.start()
        world.store.wait(["go"], 30)
        thread.join()
    else:
        world.store.wait(["go"], 30)


def test_a_fork_of_a_fork(world):
    """The child waits for the child's child, and a thread of the rank reads what that one writes."""
    if world.rank == 0:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(0.5)
                os.write(writer, b"!")
                os._exit(0)
            os.waitpid(grandchild, 0)
            os._exit(0)

        def watch():
            assert os.read(reader, 1) == b"!"
            world.store.clone().set("go", "1")

        thread = threading.Thread(target=watch)
        thread.start()
        world.store.wait(["go"], 30)
        thread.join()
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    else:
        world.store.wait(["go"], 30)


def test_a_fork_that_computes_and_answers_through_a_pipe(world):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        time.sleep(0.3)
        os.write(writer, b"42")
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 2)
    os.close(reader)
    os.waitpid(child, 0)
    world.store.set(f"answer/{world.rank}", answer)
    assert world.store.multi_get(["answer/0", "answer/1"]) == [b"42", b"42"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process(world, method):
    context = multiprocessing.get_context(method)
    if world.rank == 0:
        child = context.Process(target=nap, args=(0.2,))
        child.start()
        child.join()
        assert child.exitcode == 0
        world.store.set("go", "1")
    world.store.wait(["go"], 60)


def test_a_queue_between_processes(world):
    context = multiprocessing.get_context("fork")
    if world.rank == 0:
        queue = context.Queue()
        child = context.Process(target=put, args=(queue, 0.3))
        child.start()
        assert queue.get(timeout=30) == "done"
        child.join()
        queue.close()
        queue.join_thread()
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_a_pool(world):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        if world.rank == 1:
            time.sleep(0.2)
        world.barrier("start", timeout=30)
        assert len(pool.map(nap, [0.05] * 4)) == 4
        world.barrier("end", timeout=30)
        pool.close()
        pool.join()


def test_a_pool_that_is_idle_while_the_other_rank_is_late(world):
    """Its workers and its threads wait, the rank waits in the store."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(nap, [0])
        if world.rank == 1:
            time.sleep(1.4)
        world.barrier(timeout=30)
        pool.close()
        pool.join()


def test_an_executor_of_processes(world):
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        future = pool.submit(nap, 0.4)
        future.add_done_callback(lambda _: world.store.clone().set(f"go/{world.rank}", "1"))
        world.store.wait(["go/0", "go/1"], 30)


def test_a_manager(world):
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.dict()
        shared["rank"] = world.rank
        if world.rank == 1:
            time.sleep(0.3)
        world.barrier(timeout=30)
        assert shared["rank"] == world.rank


def test_a_barrier_of_processes(world):
    """Of the rank and two children, while the peer waits in the store."""
    context = multiprocessing.get_context("fork")
    if world.rank == 0:
        together = context.Barrier(3)
        children = [context.Process(target=together.wait, args=(20,)) for _ in range(2)]
        for child in children:
            time.sleep(0.1)
            child.start()
        together.wait(20)
        for child in children:
            child.join()
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_a_script_that_writes_what_it_does(world):
    code = "import time\nfor step in range(5):\n    time.sleep(0.1)\n    print(step, flush=True)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert [int(line) for line in child.stdout] == list(range(5))
    assert child.wait() == 0
    child.stdout.close()
    world.barrier(timeout=30)


def test_a_child_that_signals_its_end_by_a_file(world, shared_tmp_path):
    """The rank polls for the file, the peer waits in the store."""
    if world.rank == 0:
        child = subprocess.Popen(["sh", "-c", f"sleep 0.4; touch '{shared_tmp_path}/done'"])
        while not (shared_tmp_path / "done").exists():
            time.sleep(0.01)
        child.wait()
        world.store.set("go", "1")
    world.store.wait(["go"], 30)


def test_an_orphan_that_ends_by_itself(world):
    """Its parent ended before it; the rank waits until its pipe is closed."""
    if world.rank == 0:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                time.sleep(0.5)
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        assert os.read(reader, 1) == b""
        os.close(reader)
        world.store.set("go", "1")
    world.store.wait(["go"], 30)
