"""How much of the workers' time goes into the work?

Measured: calls that keep a CPU busy for a millisecond of wall time each. The ideal is their
sum divided by the number of workers; the figure is that ideal in percent of what it took.
Fair: warm workers and one call per message for everyone, nobody is told the durations.
The call watches the clock, so on a machine with no more CPUs than workers the parent's own
work hides inside the calls, for everyone alike: this shows idle workers, not the parent's CPU
time. The last row has no calls at all, only the loop: what the machine really has to give.

Where aiopool loses: the shorter the calls the more every pool loses; ``map_tiny`` shows the end
of that road.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import spin, spin_often

DURATION = 0.001


def measuring(options: Options, work: Callable[[int], Awaitable[object]]) -> Measure:
    """Time ``work(count)`` against its ideal."""
    count = options.pick(2_000, 400)

    async def measure() -> Sample:
        start = time.perf_counter()
        await work(count)
        taken = time.perf_counter() - start
        return {"% of ideal": 100 * count * DURATION / options.workers / taken}

    return measure


@asynccontextmanager
async def with_map(options: Options) -> AsyncIterator[Measure]:
    """One map over all calls."""
    async with aiopool.Pool(max_workers=options.workers, mp_context=options.context) as pool:

        async def work(count: int) -> object:
            return await pool.map(spin, [DURATION] * count)

        await work(50)
        yield measuring(options, work)


@asynccontextmanager
async def with_submit(options: Options) -> AsyncIterator[Measure]:
    """A handle for every call."""
    async with aiopool.Pool(max_workers=options.workers, mp_context=options.context) as pool:

        async def work(count: int) -> object:
            return await asyncio.gather(*[pool.submit(spin, DURATION) for _ in range(count)])

        await work(50)
        yield measuring(options, work)


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """A future for every call."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:
        loop = asyncio.get_running_loop()

        async def work(count: int) -> object:
            calls = [loop.run_in_executor(executor, spin, DURATION) for _ in range(count)]
            return await asyncio.gather(*calls)

        await work(50)
        yield measuring(options, work)


@asynccontextmanager
async def with_anyio(options: Options) -> AsyncIterator[Measure]:
    """A coroutine for every call."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(options.workers)

    async def work(count: int) -> object:
        calls = [to_process.run_sync(spin, DURATION, limiter=limiter) for _ in range(count)]
        return await asyncio.gather(*calls)

    await work(50)
    yield measuring(options, work)


@asynccontextmanager
async def with_multiprocessing(options: Options) -> AsyncIterator[Measure]:
    """``Pool.map``, one call per message."""
    with options.context.Pool(options.workers) as pool:

        async def work(count: int) -> object:
            return pool.map(spin, [DURATION] * count, chunksize=1)

        await work(50)
        yield measuring(options, work)


@asynccontextmanager
async def with_nobody(options: Options) -> AsyncIterator[Measure]:
    """Each process is told once how often to do it: what the machine can give."""
    with options.context.Pool(options.workers) as pool:

        async def work(count: int) -> object:
            share = (DURATION, count // options.workers)
            return pool.starmap(spin_often, [share] * options.workers, chunksize=1)

        await work(50)
        yield measuring(options, work)


BENCHMARK = Benchmark(
    "efficiency",
    "calls of one millisecond, percent of the ideal (more is better)",
    [
        Contender("aiopool.map", with_map),
        Contender("aiopool.submit", with_submit),
        Contender("run_in_executor", with_executor),
        Contender("anyio.to_process", with_anyio),
        Contender("multiprocessing.Pool.map", with_multiprocessing),
        Contender("no calls, one loop each", with_nobody),
    ],
    [
        Goal("aiopool.map", "% of ideal", 95, at_least=True),
        Goal("aiopool.submit", "% of ideal", 95, at_least=True),
        Goal("aiopool.map", "% of ideal", 0.95, versus="no calls, one loop each", at_least=True),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK)
