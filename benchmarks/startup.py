"""What does it cost to start a pool, use it once and stop it?

Measured in fresh interpreters, timed from inside. ``first pool ms``: an event loop, a pool of one
worker, one call and the stop of it all, in an interpreter that never started a process, so the
fork server's own start is part of it. ``next pool ms``: the same once more. Fair: aiopool and the
executor use the same start method; anyio starts its workers with ``subprocess`` and has no other
way. Imports are made before the clock starts; ``imports`` measures them.

Where aiopool loses: its first pool starts what the executor starts, and more.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.interpreters import python
from benchmarks.jobs import inc

POOL = "from benchmarks import startup; startup.child({!r}, {!r})"


def starting(name: str) -> Callable[[Options], AbstractAsyncContextManager[Measure]]:
    """A contender that starts, uses and stops a pool, twice."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Measure]:
        async def measure() -> Sample:
            first, following = json.loads(await python(POOL.format(name, options.loop)))
            return {"first pool ms": first, "next pool ms": following}

        await measure()
        yield measure

    return opened


def child(name: str, loop: str) -> None:
    """Runs in the fresh interpreter: print the milliseconds of the first and the next pool."""
    options = Options(loop=loop)
    main = POOLS[name](options)
    print(json.dumps([timed(options, main), timed(options, main)]))


def timed(options: Options, main: Callable[[], Awaitable[None]]) -> float:
    """Milliseconds of one run, the event loop's own start and stop included."""
    start = time.perf_counter()
    options.run(main)
    return (time.perf_counter() - start) * 1e3


def aiopool_pool(options: Options) -> Callable[[], Awaitable[None]]:
    """Prepare what opens, uses and closes an aiopool pool."""
    from aiopool import Pool

    async def main() -> None:
        async with Pool(max_workers=1, mp_context=options.context) as pool:
            await pool.run(inc, 1)

    return main


def executor_pool(options: Options) -> Callable[[], Awaitable[None]]:
    """Prepare what opens, uses and closes a ``ProcessPoolExecutor``."""

    async def main() -> None:
        with ProcessPoolExecutor(1, mp_context=options.context) as executor:
            await asyncio.get_running_loop().run_in_executor(executor, inc, 1)

    return main


def anyio_pool(_: Options) -> Callable[[], Awaitable[None]]:
    """Prepare what uses an anyio worker, which ends with the loop."""
    from anyio import to_process

    async def main() -> None:
        await to_process.run_sync(inc, 1)

    return main


POOLS: dict[str, Callable[[Options], Callable[[], Awaitable[None]]]] = {
    "aiopool": aiopool_pool,
    "executor": executor_pool,
    "anyio": anyio_pool,
}

BENCHMARK = Benchmark(
    "startup",
    "a pool's whole life with one call, in a fresh interpreter",
    [
        Contender("aiopool.Pool", starting("aiopool")),
        Contender("ProcessPoolExecutor", starting("executor")),
        Contender("anyio.to_process", starting("anyio")),
    ],
    [
        Goal("aiopool.Pool", "first pool ms", 1, versus="ProcessPoolExecutor"),
        Goal("aiopool.Pool", "next pool ms", 1, versus="ProcessPoolExecutor"),
    ],
    rounds=15,
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
