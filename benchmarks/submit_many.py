"""What do many single calls cost, each with a handle of its own?

Measured: the wall time of submitting them all and gathering the handles, divided by their
number. Fair: both sides give every call a future that can be awaited, cancelled and asked;
the function costs nothing; the workers are warm. One call is one message to ``submit``'s
contract: it is never run twice and never shares its fate with another.

Where aiopool loses: when calls take milliseconds this difference is lost in them; see
``efficiency`` for those.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc


async def gathered(options: Options, submit: Callable[[int], Awaitable[int]]) -> Sample:
    """Submit every call, then wait for all."""
    count = options.pick(20_000, 4_000)
    start = time.perf_counter()
    answers = await asyncio.gather(*[submit(number) for number in range(count)])
    seconds = time.perf_counter() - start
    assert answers[-1] == count
    return {"µs/call": seconds / count * 1e6}


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``pool.submit``: a handle for every call."""
    async with aiopool.Pool(max_workers=options.workers, mp_context=options.context) as pool:
        await pool.map(inc, range(1_000))
        yield lambda: gathered(options, lambda number: pool.submit(inc, number))


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """``run_in_executor``: a future for every call."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:
        loop = asyncio.get_running_loop()
        list(executor.map(inc, range(100)))
        yield lambda: gathered(options, lambda number: loop.run_in_executor(executor, inc, number))


@asynccontextmanager
async def with_anyio(options: Options) -> AsyncIterator[Measure]:
    """``to_process.run_sync``: a coroutine for every call."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(options.workers)

    async def submit(number: int) -> int:
        return await to_process.run_sync(inc, number, limiter=limiter)

    await asyncio.gather(*[submit(number) for number in range(100)])
    yield lambda: gathered(options, submit)


BENCHMARK = Benchmark(
    "submit_many",
    "many single calls, gathered",
    [
        Contender("aiopool", with_aiopool),
        Contender("run_in_executor", with_executor),
        Contender("anyio.to_process", with_anyio),
    ],
    [Goal("aiopool", "µs/call", 1 / 8, versus="run_in_executor")],
    rounds=5,
)

if __name__ == "__main__":
    main(BENCHMARK)
