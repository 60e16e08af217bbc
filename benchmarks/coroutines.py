"""What does it cost to run very many coroutines, a hundred at a time?

Measured: wall time per coroutine, for one that waits one turn of the loop and for one that
never waits; and the peak of the memory Python allocates, by tracemalloc in a run of its own,
because tracing makes everybody several times slower. ``B/waiting`` is what each further
coroutine adds to that peak while it waits for its turn: the figure that decides whether a
million is possible. Fair: the peers are the idioms their documentation shows, a task per item
behind a semaphore or limiter; gather has no bound, so it does less.
aiojobs is given a queue without a bound, and its handles are kept; aiometer reads its input as it
goes, as our stream does, and gives no results.

Where aiopool loses: TaskGroup costs less when there are only a handful of coroutines, and
what the pool adds, priorities, retries, a state for every one, is worth nothing to a program
that needs none of it.
"""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import hop, instant

LIMIT = 100

Job = Callable[[int], Coroutine[None, None, None]]
Work = Callable[[Job, int], Awaitable[object]]


async def seconds(work: Work, job: Job, count: int) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    await work(job, count)
    return time.perf_counter() - start


async def peak(work: Work, count: int) -> int:
    """Bytes allocated at the worst moment of one run."""
    tracemalloc.start()
    try:
        await work(hop, count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def memory(work: Work, few: int, many: int) -> Sample:
    """Peak with ``many``, and what each one above ``few`` adds to it."""
    small, large = await peak(work, few), await peak(work, many)
    return {"peak MB": large / 1e6, "B/waiting": (large - small) / (many - few)}


def measuring(options: Options, work: Work) -> Measure:
    """Time in every round; memory, which does not vary, in the first."""
    count = options.pick(50_000, 5_000)
    traced = False

    async def measure() -> Sample:
        nonlocal traced
        figures = {
            "µs waiting once": await seconds(work, hop, count) / count * 1e6,
            "µs not waiting": await seconds(work, instant, count) / count * 1e6,
        }
        if traced:
            return figures
        traced = True
        return {**figures, **await memory(work, count // 5, count)}

    return measure


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``map``: all results at the end, in order."""
    async with aiopool.Pool(max_workers=options.workers) as pool:

        async def work(job: Job, count: int) -> object:
            return await pool.map(job, range(count), limit=LIMIT)

        await work(hop, 1_000)
        yield measuring(options, work)


@asynccontextmanager
async def with_aiopool_stream(options: Options) -> AsyncIterator[Measure]:
    """``stream``: each result as it comes, and forgotten."""
    async with aiopool.Pool(max_workers=options.workers) as pool:

        async def work(job: Job, count: int) -> object:
            async with pool.stream(job, range(count), limit=LIMIT, ordered=False) as results:
                async for _ in results:
                    pass
            return None

        await work(hop, 1_000)
        yield measuring(options, work)


@asynccontextmanager
async def with_task_group(options: Options) -> AsyncIterator[Measure]:
    """The idiom of the standard library."""

    async def work(job: Job, count: int) -> object:
        gate = asyncio.Semaphore(LIMIT)

        async def one(item: int) -> None:
            async with gate:
                await job(item)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in range(count)]
        return [task.result() for task in tasks]

    await work(hop, 1_000)
    yield measuring(options, work)


@asynccontextmanager
async def with_gather(options: Options) -> AsyncIterator[Measure]:
    """No bound at all: everything runs at once."""

    async def work(job: Job, count: int) -> object:
        return await asyncio.gather(*[job(item) for item in range(count)])

    await work(hop, 1_000)
    yield measuring(options, work)


@asynccontextmanager
async def with_anyio(options: Options) -> AsyncIterator[Measure]:
    """The idiom of anyio."""
    from anyio import CapacityLimiter, create_task_group

    async def work(job: Job, count: int) -> object:
        limiter = CapacityLimiter(LIMIT)

        async def one(item: int) -> None:
            async with limiter:
                await job(item)

        async with create_task_group() as group:
            for item in range(count):
                group.start_soon(one, item)
        return None

    await work(hop, 1_000)
    yield measuring(options, work)


@asynccontextmanager
async def with_aiometer(options: Options) -> AsyncIterator[Measure]:
    """``run_on_each``."""
    import aiometer

    async def work(job: Job, count: int) -> object:
        return await aiometer.run_on_each(job, range(count), max_at_once=LIMIT)

    await work(hop, 1_000)
    yield measuring(options, work)


@asynccontextmanager
async def with_aiojobs(options: Options) -> AsyncIterator[Measure]:
    """``Scheduler.spawn``, and ``wait_and_close``."""
    import aiojobs

    async def work(job: Job, count: int) -> object:
        scheduler = aiojobs.Scheduler(limit=LIMIT, pending_limit=0)
        jobs = [await scheduler.spawn(job(item)) for item in range(count)]
        await scheduler.wait_and_close()
        return jobs

    await work(hop, 1_000)
    yield measuring(options, work)


BENCHMARK = Benchmark(
    "coroutines",
    f"many coroutines, {LIMIT} at a time",
    [
        Contender("aiopool.map", with_aiopool),
        Contender("aiopool.stream", with_aiopool_stream),
        Contender("TaskGroup + Semaphore", with_task_group),
        Contender("gather, no limit", with_gather),
        Contender("anyio + CapacityLimiter", with_anyio),
        Contender("aiometer", with_aiometer),
        Contender("aiojobs", with_aiojobs),
    ],
    [
        Goal("gather, no limit", "µs waiting once", 1.5, versus="aiopool.map", at_least=True),
        Goal("TaskGroup + Semaphore", "µs waiting once", 3, versus="aiopool.map", at_least=True),
        Goal("aiopool.map", "B/waiting", 100),
        Goal("aiopool.stream", "B/waiting", 10),
    ],
    rounds=5,
    quick_rounds=2,
)

if __name__ == "__main__":
    main(BENCHMARK)
