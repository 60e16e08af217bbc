"""What does one call cost on an idle pool?

Measured: the time from calling to having the answer, one call after the other, median and
99th percentile. Fair: everyone has warm workers and runs the same function; nobody has
anything else to do. The pipe is the floor: two processes, blocking ``send`` and ``recv``, no
event loop, no scheduler, no way to cancel. anyio starts its workers with ``subprocess``, which
makes no difference once they run.

Where aiopool loses: always against the bare pipe, since an event loop turns twice per call;
and the gap to anyio narrows on a machine where waking a process is what costs most.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from statistics import quantiles

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import answer_calls, inc


def sample(seconds: list[float]) -> Sample:
    """Percentiles of one round's calls."""
    cuts = quantiles(seconds, n=100)
    return {"p50 µs": cuts[49] * 1e6, "p99 µs": cuts[98] * 1e6}


async def calls(options: Options, call: Callable[[], Awaitable[int]]) -> Sample:
    """Time one call after the other."""
    seconds = []
    for _ in range(options.pick(2_000, 300)):
        start = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - start)
    return sample(seconds)


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``pool.run``, as any caller would."""
    async with aiopool.Pool(max_workers=options.workers, mp_context=options.context) as pool:

        async def call() -> int:
            return await pool.run(inc, 1)

        await calls(options, call)
        yield lambda: calls(options, call)


@asynccontextmanager
async def with_anyio(options: Options) -> AsyncIterator[Measure]:
    """``to_process.run_sync``, as any caller would."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(options.workers)

    async def call() -> int:
        return await to_process.run_sync(inc, 1, limiter=limiter)

    await calls(options, call)
    yield lambda: calls(options, call)


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """``loop.run_in_executor`` on a ``ProcessPoolExecutor``."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:
        loop = asyncio.get_running_loop()

        async def call() -> int:
            return await loop.run_in_executor(executor, inc, 1)

        await calls(options, call)
        yield lambda: calls(options, call)


@asynccontextmanager
async def with_pipe(options: Options) -> AsyncIterator[Measure]:
    """A blocking round trip over ``multiprocessing.Pipe``: the floor."""
    ours, theirs = options.context.Pipe()
    process = options.context.Process(target=answer_calls, args=(theirs,))
    process.start()
    theirs.close()

    async def measure() -> Sample:
        seconds = []
        for _ in range(options.pick(2_000, 300)):
            start = time.perf_counter()
            ours.send(1)
            ours.recv()
            seconds.append(time.perf_counter() - start)
        return sample(seconds)

    await measure()
    yield measure
    ours.close()
    process.join()


BENCHMARK = Benchmark(
    "latency",
    "one call on an idle pool",
    [
        Contender("aiopool", with_aiopool),
        Contender("anyio.to_process", with_anyio),
        Contender("run_in_executor", with_executor),
        Contender("bare pipe", with_pipe),
    ],
    [
        Goal("aiopool", "p50 µs", 0.6, versus="anyio.to_process"),
        Goal("aiopool", "p50 µs", 3, versus="bare pipe"),
    ],
    rounds=11,
    quick_rounds=5,
)

if __name__ == "__main__":
    main(BENCHMARK)
