"""Does an item of an endless input cost the same early and late?

Measured: ``pool.stream`` over an async generator of ints, consumed and forgotten, 10,000 of them
and a million: microseconds an item, the ratio of the two, and by how much the resident memory of
this process was at worst above what it was before, looked at every thousand items (on Linux).
Once with a function for the workers, once with a coroutine function. Fair: there is no peer,
because none of them reads an asynchronous input with bounds; the last row is the generator with
nobody behind it, the floor.

Where aiopool loses: against a plain ``async for`` when the function costs nothing, as here.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc, instant

Consume = Callable[[int, Callable[[], None]], Awaitable[None]]

FEW, LOOK = 10_000, 1_000


async def numbers(count: int) -> AsyncIterator[int]:
    """The input: never waits, so that it costs as little as it can."""
    for number in range(count):
        yield number


def resident() -> float:
    """Megabytes of memory this process holds, 0 where the system does not tell so."""
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def per_item(consume: Consume, count: int, look: Callable[[], None]) -> float:
    """Microseconds for one of so many."""
    start = time.perf_counter()
    await consume(count, look)
    return (time.perf_counter() - start) / count * 1e6


async def figures(options: Options, consume: Consume) -> Sample:
    """A short stream, of which the best of three counts, and a long one."""
    many = options.pick(1_000_000, 50_000)
    few = min([await per_item(consume, FEW, lambda: None) for _ in range(3)])
    before = worst = resident()

    def look() -> None:
        nonlocal worst
        worst = max(worst, resident())

    far = await per_item(consume, many, look)
    sample = {"µs/item of 10,000": few, "µs/item of a million": far, "growth": far / few}
    return sample | ({"MB above the start": worst - before} if before else {})


def streaming(fn: Callable[[int], object]) -> Callable[[Options], "peers.Opened[Measure]"]:
    """A contender that streams this function."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Measure]:
        async with peers.pool(options) as pool:

            async def consume(count: int, look: Callable[[], None]) -> None:
                seen = 0
                async with pool.stream(fn, numbers(count)) as results:
                    async for _ in results:
                        seen += 1
                        if not seen % LOOK:
                            look()
                assert seen == count

            await consume(FEW, lambda: None)
            yield lambda: figures(options, consume)

    return opened


@asynccontextmanager
async def with_nobody(options: Options) -> AsyncIterator[Measure]:
    """The generator alone."""

    async def consume(count: int, look: Callable[[], None]) -> None:
        async for number in numbers(count):
            if not number % LOOK:
                look()
        await asyncio.sleep(0)

    yield lambda: figures(options, consume)


BENCHMARK = Benchmark(
    "stream_million",
    "a million items through a stream, from an async generator",
    [
        Contender("aiopool.stream", streaming(inc)),
        Contender("aiopool.stream, coroutines", streaming(instant)),
        Contender("the generator alone", with_nobody),
    ],
    [
        Goal("aiopool.stream", "µs/item of a million", 3),
        Goal("aiopool.stream", "growth", 1.15),
        Goal("aiopool.stream", "MB above the start", 30),
    ],
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
