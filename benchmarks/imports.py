"""What does ``import aiopool`` cost?

Measured: one import statement in a fresh interpreter, timed from inside, in milliseconds. Fair:
the same interpreter, compiled files for all. The facade is lazy, so a second row also touches
``Pool``, which loads the engine and with it asyncio and anyio; asyncio is shown since most of a
program that uses any of these has imported it anyway.

Where aiopool loses: once the pool is used it cannot cost less than what it imports.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.interpreters import python

IMPORT = "import time; start = time.perf_counter(); {}; print((time.perf_counter() - start) * 1e3)"


def importing(statement: str) -> Callable[[Options], AbstractAsyncContextManager[Measure]]:
    """A contender that runs one import statement."""

    @asynccontextmanager
    async def opened(_: Options) -> AsyncIterator[Measure]:
        async def measure() -> Sample:
            return {"import ms": float(await python(IMPORT.format(statement)))}

        await measure()
        yield measure

    return opened


BENCHMARK = Benchmark(
    "imports",
    "one import statement in a fresh interpreter",
    [
        Contender("aiopool", importing("import aiopool")),
        Contender("aiopool, and its Pool", importing("import aiopool; aiopool.Pool")),
        Contender("asyncio", importing("import asyncio")),
        Contender("anyio", importing("import anyio")),
        Contender("anyio.to_process", importing("import anyio.to_process")),
        Contender("concurrent.futures.process", importing("import concurrent.futures.process")),
    ],
    [Goal("aiopool", "import ms", 1, versus="anyio")],
    rounds=15,
    quick_rounds=2,
)

if __name__ == "__main__":
    main(BENCHMARK)
