"""What does an item of a large map cost when the function costs nothing?

Measured: the wall time of mapping ``inc`` over a range, divided by its length. Fair: warm
workers, the answers collected in a list in order by everyone. The blocking peers run on the
main thread with nothing beside them, which is better than an async program could give them.
``multiprocessing.Pool`` cuts the input into four chunks per worker, which is as good as it
gets when all items cost the same; ``executor.map`` is given chunks of 64; joblib chooses its
own batches. Those that need more per item get fewer items.

Where aiopool loses: against ``multiprocessing.Pool.map``, which knows the length beforehand,
sends few huge chunks and answers nothing until they are done. aiopool reads its input as it
goes, keeps batches short enough to stay responsive and can say of every item how it went.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc


async def per_item(items: int, work: Callable[[int], Awaitable[list[int]]]) -> Sample:
    """Time ``work(items)`` and check its answer."""
    start = time.perf_counter()
    answer = await work(items)
    seconds = time.perf_counter() - start
    assert len(answer) == items
    assert answer[-1] == items
    return {"µs/item": seconds / items * 1e6}


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``pool.map``, which finds its own batches."""
    async with aiopool.Pool(max_workers=options.workers, mp_context=options.context) as pool:

        async def work(items: int) -> list[int]:
            return await pool.map(inc, range(items))

        await work(1_000)
        yield lambda: per_item(options.pick(200_000, 50_000), work)


@asynccontextmanager
async def with_multiprocessing(options: Options) -> AsyncIterator[Measure]:
    """``Pool.map``, which cuts four chunks per worker."""
    with options.context.Pool(options.workers) as pool:

        async def work(items: int) -> list[int]:
            return pool.map(inc, range(items))

        await work(1_000)
        yield lambda: per_item(options.pick(200_000, 50_000), work)


@asynccontextmanager
async def with_executor_map(options: Options) -> AsyncIterator[Measure]:
    """``executor.map`` with a chunk size somebody chose."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:

        async def work(items: int) -> list[int]:
            return list(executor.map(inc, range(items), chunksize=64))

        await work(1_000)
        yield lambda: per_item(options.pick(200_000, 20_000), work)


@asynccontextmanager
async def with_run_in_executor(options: Options) -> AsyncIterator[Measure]:
    """What an async program does without a pool of its own: a future per item."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:
        loop = asyncio.get_running_loop()

        async def work(items: int) -> list[int]:
            calls = (loop.run_in_executor(executor, inc, item) for item in range(items))
            return await asyncio.gather(*calls)

        await work(100)
        yield lambda: per_item(options.pick(10_000, 2_000), work)


@asynccontextmanager
async def with_joblib(options: Options) -> AsyncIterator[Measure]:
    """Its default backend, loky, and its automatic batches."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=options.workers) as parallel:

        async def work(items: int) -> list[int]:
            answer: list[int] = parallel(delayed(inc)(item) for item in range(items))
            return answer

        await work(1_000)
        yield lambda: per_item(options.pick(50_000, 5_000), work)


BENCHMARK = Benchmark(
    "map_tiny",
    "map a function that costs nothing over a long range",
    [
        Contender("aiopool", with_aiopool),
        Contender("multiprocessing.Pool.map", with_multiprocessing),
        Contender("executor.map, chunks of 64", with_executor_map),
        Contender("run_in_executor", with_run_in_executor),
        Contender("joblib", with_joblib),
    ],
    [
        Goal("aiopool", "µs/item", 1),
        Goal("aiopool", "µs/item", 1 / 100, versus="run_in_executor"),
    ],
)

if __name__ == "__main__":
    main(BENCHMARK)
