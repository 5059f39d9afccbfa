"""Loops of asyncio around the store, beside it, and in threads of their own."""

import asyncio
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.elastic(nprocs=2, timeout=30)


def test_a_wait_in_an_executor(world):
    async def main():
        loop = asyncio.get_running_loop()
        waits = loop.run_in_executor(None, world.store.clone().wait, ["go"], 20)
        if world.rank == 1:
            await asyncio.sleep(0.4)
            world.store.set("go", "1")
        await waits

    asyncio.run(main())
    world.barrier(timeout=20)


def test_a_task_that_sets_the_key_that_another_waits_for(world):
    """One task's wait is in a thread, while the loop sleeps for the other task."""

    async def later():
        await asyncio.sleep(1.3)
        await asyncio.to_thread(world.store.clone().set, f"go/{world.rank}", "1")

    async def main():
        await asyncio.gather(asyncio.to_thread(world.store.wait, ["go/0", "go/1"], 20), later())

    asyncio.run(main())


def test_a_loop_in_a_thread(world):
    """To which the main thread gives work before it waits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def later():
        await asyncio.sleep(0.5)
        await asyncio.to_thread(world.store.clone().set, f"go/{world.rank}", "1")

    future = asyncio.run_coroutine_threadsafe(later(), loop)
    world.store.wait(["go/0", "go/1"], 20)
    future.result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_polls_with_sleeps(world):
    async def main():
        while not world.store.check(["go"]):
            await asyncio.sleep(0.01)

    if world.rank == 1:
        time.sleep(0.3)
        world.store.set("go", "1")
    asyncio.run(main())


def test_a_limit_on_a_task(world):
    """The task is given up; its thread ends with the key, which comes later."""

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(world.store.clone().wait, ["go"], 20), 0.2)
        await asyncio.to_thread(world.barrier)
        if world.rank == 0:
            world.store.set("go", "1")

    asyncio.run(main())


def test_a_child_of_the_loop(world):
    async def main():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(0.3)")
        assert await child.wait() == 0
        world.store.set(f"go/{world.rank}", "1")

    asyncio.run(main())
    world.store.wait(["go/0", "go/1"], 20)


def test_a_connection_of_two_loops(world):
    async def serve(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        if world.rank == 0:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            world.store.set("port", str(server.sockets[0].getsockname()[1]))
            await asyncio.to_thread(world.store.clone().wait, ["done"], 20)
            server.close()
            await server.wait_closed()
        else:
            port = int(await asyncio.to_thread(world.store.get, "port"))
            await asyncio.sleep(0.3)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            world.store.set("done", "1")

    asyncio.run(main())


def test_a_queue_of_tasks(world):
    async def main():
        queue = asyncio.Queue()

        async def produce():
            for number in range(5):
                await asyncio.sleep(0.05)
                await queue.put(number)

        async def consume():
            for number in range(5):
                assert await queue.get() == number
                world.store.add("consumed", 1)

        await asyncio.gather(produce(), consume())
        while world.store.add("consumed", 0) < 10:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    world.barrier(timeout=20)


def test_a_signal_handler_of_the_loop(world):
    import os
    import signal

    async def main():
        came = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, came.set)
        world.store.set(f"pid/{world.rank}", str(os.getpid()))
        if world.rank == 0:
            await asyncio.wait_for(came.wait(), 20)
            world.store.set("go", "1")
        else:
            pid = int(await asyncio.to_thread(world.store.clone().get, "pid/0"))
            await asyncio.sleep(0.3)
            os.kill(pid, signal.SIGUSR1)
            await asyncio.to_thread(world.store.clone().wait, ["go"], 20)

    asyncio.run(main())
