"""What does an array of 64 MB cost as an argument of a thousand calls?

Measured: microseconds of a call, one after the other, each given the same array, which was handed
to ``pool.share`` beforehand. Fair: the second row is the same loop with an int, so that what is
left between the two is the array's price. joblib puts an argument of this size into a file that
its workers map, by itself, and is called as it documents, all calls in one ``Parallel``; an int
is the row below it. The executor sends the bytes with each call, and so gets fewer calls. Placing
the array the first time is part of nobody's figure.

Where aiopool loses: the array has to be shared by a line of code; joblib finds out by itself. And
joblib's calls travel in batches, which ``pool.map`` would do too and ``pool.run`` does not.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import numpy as np

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main, using
from benchmarks.jobs import first_byte, inc

Job: TypeAlias = Callable[[Any], object]
Array: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
TAKE: Job = first_byte


def an_array(options: Options) -> Array:
    """64 MB, written to once."""
    return np.ones(options.pick(64 << 20, 8 << 20), np.uint8)


async def often(call: peers.Call, fn: Job, arg: object, times: int) -> Sample:
    """Time one call after the other."""
    await call(fn, arg)
    start = time.perf_counter()
    for _ in range(times):
        await call(fn, arg)
    return {"µs/call": (time.perf_counter() - start) / times * 1e6}


@asynccontextmanager
async def with_share(options: Options) -> AsyncIterator[Measure]:
    """``pool.share``, then the handle as the argument."""
    array = an_array(options)
    async with peers.pool(options) as pool:
        shared = pool.share(array)
        await asyncio.gather(*[pool.run(TAKE, shared) for _ in range(4 * options.workers)])
        yield lambda: often(pool.run, first_byte, shared, options.pick(1_000, 100))


async def with_int(options: Options, call: peers.Call) -> Sample:
    """The same loop with nothing to carry."""
    return await often(call, inc, 1, options.pick(1_000, 100))


async def with_bytes(options: Options, call: peers.Call) -> Sample:
    """The whole array with every call."""
    return await often(call, first_byte, an_array(options), options.pick(10, 3))


async def joblib_array(options: Options, work: peers.Map) -> Sample:
    """One array for all calls, which joblib maps into its workers."""
    array = an_array(options)
    times = options.pick(1_000, 100)
    await work(first_byte, [array])
    start = time.perf_counter()
    await work(first_byte, [array] * times)
    return {"µs/call": (time.perf_counter() - start) / times * 1e6}


async def joblib_int(options: Options, work: peers.Map) -> Sample:
    """The same without an array."""
    times = options.pick(1_000, 100)
    start = time.perf_counter()
    await work(inc, range(times))
    return {"µs/call": (time.perf_counter() - start) / times * 1e6}


BENCHMARK = Benchmark(
    "shared_array",
    "calls that are all given the same 64 MB",
    [
        Contender("aiopool, shared", with_share),
        Contender("aiopool, an int", using(peers.run_calls, with_int)),
        Contender("joblib, mapped", using(peers.joblib_maps, joblib_array)),
        Contender("joblib, an int", using(peers.joblib_maps, joblib_int)),
        Contender("run_in_executor, sent", using(peers.executor_calls, with_bytes)),
        Contender("run_in_executor, an int", using(peers.executor_calls, with_int)),
    ],
    [Goal("aiopool, shared", "µs/call", 1.1, versus="aiopool, an int")],
    rounds=7,
    quick_rounds=2,
)

if __name__ == "__main__":
    main(BENCHMARK)
