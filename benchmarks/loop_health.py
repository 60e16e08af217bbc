"""How late does the event loop wake while the workers are given something heavy?

Measured: a timer of one millisecond beats beside the work; each figure is the 99th percentile of
how late it woke. First nothing, ``idle``; then all workers are kept saturated for a while by calls
of 0.5 ms, eight waiting for each worker, and by arguments of 8 MB, two for each, once NumPy arrays
and once bytes; what the first two add to idle is a figure of its own.
Then single heavy things: fifty arguments that take 5 ms each to
pickle, an argument and a result of 200 MB, ten thousand calls cancelled while they wait, and a
worker that writes 20 MB to its standard output (which goes nowhere here). Fair: the same two
workers and functions, awaited through the interface each documents; pickling holds the GIL in
everybody's process, the executor's in a thread of its own. Where there are no more CPUs than
workers, as the system shares them out is part of every figure.

Where aiopool loses: arguments of builtin types are pickled on the loop, so that what cannot be sent
is refused at once, and a large result is unpickled there; the executor's threads do both beside
it, as far as the C pickler, which keeps the GIL, lets anything happen beside it.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from pathlib import Path
from statistics import quantiles

import numpy as np

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import SlowToPickle, first_byte, inc, make_bytes, size, spin, talk

BEAT = 0.001

Submit = Callable[..., "asyncio.Future[object]"]
Many = Callable[[Callable[..., object], list[object]], Awaitable[object]]


async def late(work: Callable[[], Awaitable[object]]) -> float:
    """The 99th percentile of how late the loop woke beside the work, in milliseconds."""
    delays = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            delays.append(time.perf_counter() - due)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.02)
    await work()
    await asyncio.sleep(0.02)
    beating.cancel()
    return quantiles(delays, n=100)[98] * 1e3


@contextmanager
def silenced() -> Iterator[None]:
    """Have what the workers that start meanwhile write to standard output go nowhere."""
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


async def saturate(options: Options, submit: Submit, each: int, call: tuple[object, ...]) -> None:
    """Have so many calls under way for each worker, for a while."""
    end = time.perf_counter() + options.pick(1.0, 0.2)

    async def feed() -> None:
        while time.perf_counter() < end:
            await submit(*call)

    await asyncio.gather(*[feed() for _ in range(each * options.workers)])


async def saturated(options: Options, submit: Submit) -> dict[str, float]:
    """The loop beside nothing, short calls and large arguments."""
    idle = await late(lambda: asyncio.sleep(options.pick(0.5, 0.1)))
    calls = await late(lambda: saturate(options, submit, 8, (spin, 0.0005)))
    array, block = np.ones(8 << 20, np.uint8), bytes(8 << 20)
    arrays = await late(lambda: saturate(options, submit, 2, (first_byte, array)))
    blocks = await late(lambda: saturate(options, submit, 2, (size, block)))
    return {
        "idle p99 ms": idle,
        "0.5 ms calls p99 ms": calls,
        "0.5 ms calls above idle ms": calls - idle,
        "8 MB arrays p99 ms": arrays,
        "8 MB arrays above idle ms": arrays - idle,
        "8 MB bytes p99 ms": blocks,
    }


async def measure(options: Options, submit: Submit, many: Many) -> Sample:
    """All the work, one kind after the other."""
    block = bytes(options.pick(200, 20) << 20)

    async def slow() -> None:
        await many(inc, [SlowToPickle(0.005) for _ in range(options.pick(50, 10))])

    async def large() -> None:
        await submit(size, block)
        await submit(make_bytes, len(block))

    async def cancelled() -> None:
        holding = [submit(time.sleep, 0.2) for _ in range(options.workers)]
        futures = [submit(inc, number) for number in range(options.pick(10_000, 1_000))]
        for future in futures:
            future.cancel()
        await asyncio.wait(futures + holding)

    async def talking() -> None:
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
            await submit(talk, options.pick(20, 2))

    return await saturated(options, submit) | {
        "slow pickles p99 ms": await late(slow),
        "large p99 ms": await late(large),
        "cancels p99 ms": await late(cancelled),
        "output p99 ms": await late(talking),
    }


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """``pool.submit``, and ``pool.map`` for many."""
    with silenced():
        pool = await aiopool.Pool(options.workers, mp_context=options.context).__aenter__()
        await asyncio.gather(*[pool.run(time.sleep, 0.1) for _ in range(options.workers)])
    try:
        yield lambda: measure(options, pool.submit, pool.map)
    finally:
        await pool.aclose()


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """``loop.run_in_executor``."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:

        def submit(fn: Callable[..., object], *args: object) -> "asyncio.Future[object]":
            return loop.run_in_executor(executor, fn, *args)

        async def many(fn: Callable[..., object], items: list[object]) -> None:
            await asyncio.gather(*[submit(fn, item) for item in items])

        with silenced():
            await asyncio.gather(*[submit(time.sleep, 0.1) for _ in range(options.workers)])
        yield lambda: measure(options, submit, many)


SATURATED = ("0.5 ms calls", "8 MB arrays")
HEAVY = ("slow pickles", "large", "cancels", "output")

BENCHMARK = Benchmark(
    "loop_health",
    "how late the event loop wakes beside heavy work",
    [Contender("aiopool", with_aiopool), Contender("run_in_executor", with_executor)],
    [
        *(Goal("aiopool", f"{f} p99 ms", 1 / 4, versus="run_in_executor") for f in SATURATED),
        *(Goal("aiopool", f"{f} above idle ms", 1) for f in SATURATED),
        *(Goal("aiopool", f"{f} p99 ms", 1.5, versus="run_in_executor") for f in HEAVY),
    ],
    rounds=3,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
