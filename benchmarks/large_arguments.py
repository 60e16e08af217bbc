"""What does a large array cost as an argument, and as a result?

Measured: milliseconds of one call after the other on one worker, with an array of 64 MB as its
argument, as its result, and as both. The first result is dropped before the next call, as a loop
over requests would. The same array all the time, so its memory is warm; the worker returns one
that it has. Fair: everyone has a warm worker; the copy is the floor, one ``memcpy`` from warm
memory into warm memory. joblib has two workers, as with one it calls in the parent, and is told
not to put the array into a file; what its own way costs is in ``shared_array``.

Where aiopool loses: against the copy, as the bytes go through a socket; against anyone once
results are kept, because then they need fresh memory, which costs more than all the rest.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import numpy as np

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import first_byte

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Call: TypeAlias = Callable[..., Awaitable[object]]

_kept: dict[int, Array] = {}


def give(size: int) -> Array:
    """Give an array that was made before."""
    if size not in _kept:
        _kept[size] = np.ones(size, np.uint8)
    return _kept[size]


def reflect(array: Array) -> Array:
    """Give the array that came."""
    return array


async def seconds(call: Call, *args: object) -> float:
    """Time one call."""
    start = time.perf_counter()
    await call(*args)
    return time.perf_counter() - start


async def three_ways(call: Call, array: Array) -> dict[str, float]:
    """The three figures that everybody has."""
    return {
        "there ms": await seconds(call, first_byte, array) * 1e3,
        "back ms": await seconds(call, give, len(array)) * 1e3,
        "both ms": await seconds(call, reflect, array) * 1e3,
    }


def an_array(options: Options) -> Array:
    """64 MB, written to once."""
    return np.ones(options.pick(64 << 20, 8 << 20), np.uint8)


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``pool.run``, as any caller would."""
    array = an_array(options)
    async with aiopool.Pool(max_workers=1, mp_context=options.context) as pool:
        await three_ways(pool.run, array)
        yield lambda: three_ways(pool.run, array)


@asynccontextmanager
async def with_copy(options: Options) -> AsyncIterator[Measure]:
    """One copy for each way: the floor."""
    array = an_array(options)
    other = array.copy()

    async def measure() -> Sample:
        start = time.perf_counter()
        other[:] = array
        once = (time.perf_counter() - start) * 1e3
        return {"there ms": once, "back ms": once, "both ms": 2 * once}

    await measure()
    yield measure


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """``loop.run_in_executor`` on a ``ProcessPoolExecutor``."""
    array = an_array(options)
    with ProcessPoolExecutor(1, mp_context=options.context) as executor:
        loop = asyncio.get_running_loop()

        async def call(fn: Callable[..., object], arg: object) -> object:
            return await loop.run_in_executor(executor, fn, arg)

        await three_ways(call, array)
        yield lambda: three_ways(call, array)


@asynccontextmanager
async def with_anyio(options: Options) -> AsyncIterator[Measure]:
    """``to_process.run_sync``, as any caller would."""
    from anyio import CapacityLimiter, to_process

    array = an_array(options)
    limiter = CapacityLimiter(1)

    async def call(fn: Callable[..., object], arg: object) -> object:
        return await to_process.run_sync(fn, arg, limiter=limiter)

    await three_ways(call, array)
    yield lambda: three_ways(call, array)


@asynccontextmanager
async def with_joblib(options: Options) -> AsyncIterator[Measure]:
    """``Parallel`` of one call, pickled."""
    from joblib import Parallel, delayed

    array = an_array(options)
    with Parallel(n_jobs=2, max_nbytes=None) as parallel:

        async def call(fn: Callable[..., object], arg: object) -> object:
            return parallel([delayed(fn)(arg)])

        await three_ways(call, array)
        yield lambda: three_ways(call, array)


BENCHMARK = Benchmark(
    "large_arguments",
    "one call with 64 MB there, back, and both",
    [
        Contender("aiopool", with_aiopool),
        Contender("a copy", with_copy),
        Contender("run_in_executor", with_executor),
        Contender("anyio.to_process", with_anyio),
        Contender("joblib", with_joblib),
    ],
    [
        Goal("aiopool", "there ms", 4, versus="a copy"),
        Goal("aiopool", "back ms", 4, versus="a copy"),
        Goal("run_in_executor", "both ms", 12, versus="aiopool", at_least=True),
    ],
    rounds=9,
    quick_rounds=3,
)

if __name__ == "__main__":
    main(BENCHMARK)
