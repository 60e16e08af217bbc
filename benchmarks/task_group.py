"""What do structured children cost, a hundred at a time or all at once?

Measured: wall time per child. ``µs waiting once`` and ``µs not waiting``: 20,000 trivial children
of which 100 may run at once; ``µs unlimited``: as many children of ``create_task`` without any
limit. And ``B/waiting``: what each further child that waits for its place holds, by tracemalloc,
measured while all wait. Fair: the peer is the idiom of the standard library, a semaphore in every
coroutine; both sides keep the handle of every child.

Where aiopool gains least: a child that never waits goes through a semaphore that has room almost
for nothing, and from Python 3.12 on it starts without a turn of the loop, before that with one.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import hop, instant

LIMIT = 100

Job = Callable[[int], Coroutine[None, None, None]]
Start = Callable[[Job, int], list[asyncio.Future[None]]]
Work = Callable[[Job, int], Awaitable[None]]


async def per_child(work: Work, job: Job, count: int) -> float:
    """Microseconds for one of so many."""
    gc.collect()  # or a full collection falls to whoever comes next
    start = time.perf_counter()
    await work(job, count)
    return (time.perf_counter() - start) / count * 1e6


async def held(group: asyncio.TaskGroup, start: Start, count: int) -> int:
    """Bytes held while so many children wait behind a hundred that do not end."""
    door = asyncio.Event()

    async def wait(_: int) -> None:
        await door.wait()

    async with group:
        start(wait, LIMIT)
        await asyncio.sleep(0.01)
        gc.collect()
        tracemalloc.start()
        children = start(wait, count)
        for _ in range(3):
            await asyncio.sleep(0)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        door.set()
    assert len(children) == count
    return size


async def sample(
    options: Options,
    kind: type[asyncio.TaskGroup],
    limited: Work,
    gated: asyncio.TaskGroup,
    start: Start,
) -> Sample:
    """One round of a contender: ``kind`` without a limit; ``limited``; waiting in ``gated``."""
    count = options.pick(20_000, 2_000)

    async def unlimited(job: Job, count: int) -> None:
        async with kind() as group:
            tasks = [group.create_task(job(number)) for number in range(count)]
        assert tasks[-1].done()

    return {
        "µs waiting once": await per_child(limited, hop, count),
        "µs not waiting": await per_child(limited, instant, count),
        "µs unlimited": await per_child(unlimited, hop, count),
        "B/waiting": await held(gated, start, count) / count,
    }


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``start_soon`` under a limit, and ``create_task`` without one."""

    async def limited(job: Job, count: int) -> None:
        async with aiopool.TaskGroup(limit=LIMIT) as group:
            handles = [group.start_soon(job, number) for number in range(count)]
        assert handles[-1].done()

    async def measure() -> Sample:
        group = aiopool.TaskGroup(limit=LIMIT)

        def start(job: Job, count: int) -> list[asyncio.Future[None]]:
            return [group.start_soon(job, number) for number in range(count)]

        return await sample(options, aiopool.TaskGroup, limited, group, start)

    await measure()
    yield measure


@asynccontextmanager
async def with_asyncio(options: Options) -> AsyncIterator[Measure]:
    """A task for every child, and a semaphore."""

    def starting(group: asyncio.TaskGroup) -> Start:
        gate = asyncio.Semaphore(LIMIT)

        def start(job: Job, count: int) -> list[asyncio.Future[None]]:
            async def one(number: int) -> None:
                async with gate:
                    await job(number)

            return [group.create_task(one(number)) for number in range(count)]

        return start

    async def limited(job: Job, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = starting(group)(job, count)
        assert tasks[-1].done()

    async def measure() -> Sample:
        group = asyncio.TaskGroup()
        return await sample(options, asyncio.TaskGroup, limited, group, starting(group))

    await measure()
    yield measure


BENCHMARK = Benchmark(
    "task_group",
    "children of a group, 100 at a time or all at once",
    [
        Contender("aiopool.TaskGroup", with_aiopool),
        Contender("asyncio + Semaphore", with_asyncio),
    ],
    [
        Goal("aiopool.TaskGroup", "µs waiting once", 1 / 1.5, versus="asyncio + Semaphore"),
        Goal("aiopool.TaskGroup", "µs unlimited", 1.15, versus="asyncio + Semaphore"),
        Goal("aiopool.TaskGroup", "B/waiting", 1 / 4, versus="asyncio + Semaphore"),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK)
