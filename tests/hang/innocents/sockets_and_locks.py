"""Ranks that wait for each other outside the store: sockets, pipes, locks of files, files."""

import fcntl
import mmap
import os
import select
import selectors
import socket
import threading
import time

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


def connect(world):
    """A connection of the two ranks over this machine's loopback."""
    if world.rank == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            world.store.set("port", str(server.getsockname()[1]))
            return server.accept()[0]
    return socket.create_connection(("127.0.0.1", int(world.store.get("port"))))


def test_accept_late(world):
    """The connection lies in the backlog for a while."""
    if world.rank == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            world.store.set("port", str(server.getsockname()[1]))
            time.sleep(0.4)
            connection = server.accept()[0]
            connection.sendall(b"x")
            connection.close()
    else:
        with socket.create_connection(("127.0.0.1", int(world.store.get("port")))) as connection:
            assert connection.recv(1) == b"x"
    world.barrier(timeout=20)


def test_connect_late(world):
    if world.rank == 0:
        with socket.create_server(("127.0.0.1", 0)) as server:
            world.store.set("port", str(server.getsockname()[1]))
            server.accept()[0].close()
        world.store.set("accepted", "1")
    else:
        port = int(world.store.get("port"))
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port)):
            world.store.wait(["accepted"], 20)


def test_receive_late(world):
    """One waits in the store while the other waits for bytes that its thread sends."""
    with connect(world) as connection:
        if world.rank == 0:

            def send():
                time.sleep(1.3)
                connection.sendall(b"work")

            thread = threading.Thread(target=send)
            thread.start()
            world.store.wait(["done"], 20)
            thread.join()
        else:
            assert connection.recv(4) == b"work"
            world.store.set("done", "1")


def test_a_thread_that_receives(world):
    """A server thread on one rank sets the key when the other's bytes come."""
    with connect(world) as connection:
        if world.rank == 0:

            def serve():
                assert connection.recv(1) == b"!"
                world.store.clone().set("go", "1")

            thread = threading.Thread(target=serve)
            thread.start()
            world.store.wait(["go"], 20)
            thread.join()
        else:
            time.sleep(0.5)
            connection.sendall(b"!")
            world.store.wait(["go"], 20)


def test_a_thread_that_receives_from_a_thread(world):
    """Both main threads wait in the store; one thread sleeps and sends, the other receives and sets."""
    with connect(world) as connection:

        def work():
            if world.rank == 0:
                assert connection.recv(1) == b"!"
                world.store.clone().set("go", "1")
            else:
                time.sleep(1.3)
                connection.sendall(b"!")

        thread = threading.Thread(target=work)
        thread.start()
        world.store.wait(["go"], 20)
        thread.join()


def test_a_selector(world):
    with connect(world) as connection, selectors.DefaultSelector() as selector:
        if world.rank == 0:
            selector.register(connection, selectors.EVENT_READ)
            while not selector.select(timeout=0.05):
                pass
            assert connection.recv(1) == b"!"
            world.store.set("go", "1")
        else:
            time.sleep(0.3)
            connection.sendall(b"!")
        world.store.wait(["go"], 20)


def test_poll_without_a_limit(world):
    with connect(world) as connection:
        if world.rank == 0:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            assert poll.poll()
            world.store.set("go", "1")
        else:
            time.sleep(0.3)
            connection.sendall(b"!")
        world.store.wait(["go"], 20)


def test_a_socket_of_this_machine(world, shared_tmp_path):
    """In the directory that the ranks share, by a short path."""
    os.chdir(shared_tmp_path)
    with socket.socket(socket.AF_UNIX) as mine:
        if world.rank == 0:
            mine.bind("here")
            mine.listen()
            world.store.set("listening", "1")
            connection = mine.accept()[0]
            assert connection.recv(1) == b"!"
            connection.close()
        else:
            world.store.wait(["listening"], 20)
            time.sleep(0.2)
            mine.connect("here")
            mine.sendall(b"!")
    world.barrier(timeout=20)


def test_a_datagram(world):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind(("127.0.0.1", 0))
        world.store.set(f"port/{world.rank}", str(mine.getsockname()[1]))
        other = int(world.store.get(f"port/{1 - world.rank}"))
        if world.rank == 0:
            assert mine.recv(1) == b"!"
            world.store.set("go", "1")
        else:
            time.sleep(0.3)
            mine.sendto(b"!", ("127.0.0.1", other))
        world.store.wait(["go"], 20)


def test_a_named_pipe(world, shared_tmp_path):
    """Opening it waits for the other side."""
    path = shared_tmp_path / "pipe"
    if world.rank == 0:
        os.mkfifo(path)
        world.store.set("made", "1")
        with open(path, "rb") as pipe:
            assert pipe.read() == b"hello"
        world.store.set("go", "1")
    else:
        world.store.wait(["made"], 20)
        time.sleep(0.3)
        with open(path, "wb") as pipe:
            pipe.write(b"hello")
    world.store.wait(["go"], 20)


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_a_lock_of_a_file(world, shared_tmp_path, lock):
    """One rank holds it for a while, the other waits in the kernel."""
    with open(shared_tmp_path / "lock", "w") as file:
        if world.rank == 0:
            lock(file, fcntl.LOCK_EX)
            world.store.set("held", "1")
            time.sleep(0.5)
            lock(file, fcntl.LOCK_UN)
        else:
            world.store.wait(["held"], 20)
            lock(file, fcntl.LOCK_EX)
        world.barrier(timeout=20)


def test_a_lock_that_is_tried(world, shared_tmp_path):
    """Until it is free; its holder waits for the news in the store."""
    with open(shared_tmp_path / "lock", "w") as file:
        if world.rank == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
            world.store.set("held", "1")
            world.store.wait(["tried"], 20)
            time.sleep(0.2)
            fcntl.flock(file, fcntl.LOCK_UN)
        else:
            world.store.wait(["held"], 20)
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    world.store.set("tried", "1")
                    time.sleep(0.01)
        world.barrier(timeout=20)


def test_a_file_that_appears(world, shared_tmp_path):
    path = shared_tmp_path / "ready"
    if world.rank == 0:
        while not path.exists():
            time.sleep(0.01)
        world.store.set("seen", "1")
    else:
        time.sleep(0.3)
        path.touch()
    world.store.wait(["seen"], 20)


def test_memory_that_both_see(world, shared_tmp_path):
    """A byte in a mapped file, for which one rank spins."""
    path = shared_tmp_path / "memory"
    if world.rank == 0:
        path.write_bytes(b"\0" * mmap.PAGESIZE)
        world.store.set("made", "1")
    world.store.wait(["made"], 20)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        if world.rank == 0:
            while memory[0] == 0:
                pass
            world.store.set("seen", "1")
        else:
            time.sleep(0.3)
            memory[0] = 1
            world.store.wait(["seen"], 20)


def test_a_rank_that_ends_closes_its_socket(world):
    """Which is what the other one waits for."""
    connection = connect(world)
    if world.rank == 0:
        assert connection.recv(1) == b""
    else:
        time.sleep(0.3)
    connection.close()
