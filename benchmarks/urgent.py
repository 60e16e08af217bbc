"""How long does an urgent call wait behind ten thousand that are not?

Measured: all workers are busy and 10,000 calls of 5 ms are queued with low priority; then, now and
again, an urgent call that costs nothing, and the time until its answer, median and 95th
percentile. No pool stops a running call for it, so the remainder of one call, 5 ms, is the ideal's
worst case. Fair: deadpool is the one peer whose executor knows priorities, and is used with them;
everyone else answers when the 10,000 are done, after 25 s, and is left out. What is left of the
queue is cancelled after each round.

Where aiopool loses: nowhere known. A low call that has been sent to a worker ahead of time runs
before the urgent one, which is why at most a few milliseconds of work are.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles

import aiopool
from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc, spin

RUNNING = 0.005
GAP = 0.013
"""Seconds between two urgent calls: no multiple of a call's, so that they come at any moment."""


async def urgently(options: Options, low: peers.Call, urgent: peers.Call) -> Sample:
    """Queue the low calls, then time the urgent ones, then cancel what is left."""
    queued = [low(spin, RUNNING) for _ in range(options.pick(10_000, 1_000))]
    await asyncio.sleep(0.1)
    seconds = []
    for _ in range(options.pick(100, 30)):
        await asyncio.sleep(GAP)
        start = time.perf_counter()
        await urgent(inc, 1)
        seconds.append(time.perf_counter() - start)
    waiting = [asyncio.ensure_future(call) for call in queued]
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50 ms": cuts[49] * 1e3, "p95 ms": cuts[94] * 1e3}


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``priority=``."""
    async with peers.pool(options) as pool:
        low = functools.partial(pool.submit, priority=aiopool.Priority.LOW)
        urgent = functools.partial(pool.submit, priority=aiopool.Priority.URGENT)
        yield lambda: urgently(options, low, urgent)


@asynccontextmanager
async def with_deadpool(options: Options) -> AsyncIterator[Measure]:
    """``deadpool_priority=``, of which the lower runs first."""
    async with peers.deadpool(options) as executor:

        def call(priority: int) -> peers.Call:
            submit = functools.partial(executor.submit, deadpool_priority=priority)
            return lambda fn, *args: asyncio.wrap_future(submit(fn, *args))

        yield lambda: urgently(options, call(10), call(0))


BENCHMARK = Benchmark(
    "urgent",
    "an urgent call behind 10,000 queued ones of 5 ms",
    [
        Contender("aiopool", with_aiopool),
        Contender("deadpool", with_deadpool, restless=True),
    ],
    [Goal("aiopool", "p95 ms", RUNNING * 1e3 + 2)],
    rounds=5,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
