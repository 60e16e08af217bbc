"""Does a small map wait for a large one that came before it?

Measured: a map of ten items, alone and then while a map of 20,000 runs on the same pool, all of
0.2 ms; ``beyond`` is what it took in company above twice its time alone. Several small maps, one
after the other, as long as the large one lasts, and of them the median. Two quanta, 6 ms, are
what aiopool allows itself: work that was sent to a worker when the small map came is not taken
back. Fair: everyone shares two workers between two maps as its interface allows; those that block
do so in threads, which costs them little beside what is waited for.

Where aiopool loses: the large map ends a little later, by what the small ones took from it.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main, using
from benchmarks.jobs import spin

ITEM = 0.0002
QUANTUM_MS = 3.0
SETTLE = 0.05
"""Seconds after which the large map is well under way."""


async def milliseconds(work: peers.Map) -> float:
    """Time one small map."""
    start = time.perf_counter()
    await work(spin, [ITEM] * 10)
    return (time.perf_counter() - start) * 1e3


async def in_company(options: Options, work: peers.Map) -> Sample:
    """The small map alone, then behind the large one."""
    alone = median([await milliseconds(work) for _ in range(5)])
    large = asyncio.create_task(large_map(options, work))
    await asyncio.sleep(SETTLE)
    behind = [await milliseconds(work)]
    while not large.done() and len(behind) < 20:
        await asyncio.sleep(0.01)
        behind.append(await milliseconds(work))
    await large
    after = median(behind)
    return {"alone ms": alone, "behind ms": after, "beyond ms": after - 2 * alone}


async def large_map(options: Options, work: peers.Map) -> None:
    """The map that came first."""
    await work(spin, [ITEM] * options.pick(20_000, 2_000))


def in_thread(map_: Callable[..., Any]) -> peers.Map:
    """A map that blocks, in a thread of its own, so that two can run at a time."""

    async def work(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return await asyncio.to_thread(lambda: list(map_(fn, items)))

    return work


@asynccontextmanager
async def with_multiprocessing(options: Options) -> AsyncIterator[Measure]:
    """Two ``Pool.map`` on one pool."""
    with options.context.Pool(options.workers) as workers:
        work = in_thread(workers.map)
        await milliseconds(work)
        yield lambda: in_company(options, work)


@asynccontextmanager
async def with_joblib(options: Options) -> AsyncIterator[Measure]:
    """Two ``Parallel``, which share joblib's workers."""
    from joblib import Parallel, delayed

    kept = threading.local()

    def parallel(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        if not hasattr(kept, "parallel"):
            kept.parallel = Parallel(n_jobs=options.workers)
        return list(kept.parallel(delayed(fn)(item) for item in items))

    work = in_thread(parallel)
    await milliseconds(work)
    yield lambda: in_company(options, work)


BENCHMARK = Benchmark(
    "fairness",
    "a map of ten items that comes after one of 20,000",
    [
        Contender("aiopool", using(peers.pool_maps, in_company)),
        Contender("run_in_executor", using(peers.executor_call_maps, in_company)),
        Contender("multiprocessing.Pool.map", with_multiprocessing),
        Contender("joblib", with_joblib),
    ],
    [Goal("aiopool", "beyond ms", 2 * QUANTUM_MS)],
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
