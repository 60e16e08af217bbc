"""One background worker that takes tasks while the program goes on, and loses none of them.

    python docs/examples/background_worker.py --chunks 4

The producer is slow, and its first chunk is worked on long before the last one is there. One task
kills the worker: that task is marked, the next one finds a new worker, and handing tasks over
never blocks. What the worker prints arrives in whole lines, in this program's own output.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

import aiopool

T = TypeVar("T")
R = TypeVar("R")


class BackgroundWorker(Generic[T, R]):
    """Calls ``work`` with one task after the other, in a process of its own.

    Leaving ``async with`` finishes what was handed over; by an exception, it stops the worker.
    ``options`` are those of the pool: ``retry``, ``timeout``, ``max_worker_memory`` and so on.
    """

    def __init__(self, work: Callable[[T], R], **options: Unpack[aiopool.PoolOptions]) -> None:
        self._work = work
        self._tasks: list[T] = []
        self._pool = aiopool.Pool(1, **options)

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._pool.__aexit__(exc_type, exc, traceback)

    def process_task(self, task: T) -> aiopool.TaskHandle[R]:
        """Hand over a task; returns at once, also when the worker has died this very moment."""
        handle = self._pool.submit(self._work, task)
        self._tasks.append(task)
        return handle

    async def collect_tasks(self) -> list[tuple[T, aiopool.Outcome[R]]]:
        """Take no more tasks; each with how it ended, in the order they came. May be repeated."""
        return list(zip(self._tasks, await self._pool.collect(), strict=True))


def double(task: int) -> int:
    """What the worker does; 13 is its misfortune."""
    print(f"worker: doubling {task}")
    if task == 13:
        os._exit(1)
    return 2 * task


async def produce(chunks: int) -> AsyncIterator[range]:
    """Chunks of five tasks, each of which takes its time to be found."""
    for first in range(0, 5 * chunks, 5):
        print(f"parent: looking for tasks {first} to {first + 4}")
        await asyncio.sleep(0.1)
        yield range(first, first + 5)


async def program(chunks: int) -> None:
    async with BackgroundWorker(double) as worker:
        async for chunk in produce(chunks):
            handles = [worker.process_task(task) for task in chunk]
            print(f"parent: handed over {len(handles)} tasks")
        results = await worker.collect_tasks()
    for task, outcome in results:
        print(f"{task} -> {outcome.value if outcome.ok else outcome.error}")
    pids = {outcome.pid for _, outcome in results}
    print(f"{len(results)} results of {5 * chunks} tasks, by {len(pids)} worker(s), one at a time")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="A background worker.")
    parser.add_argument("--chunks", type=int, default=4, help="of five tasks each (4)")
    aiopool.run(program(parser.parse_args().chunks))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
