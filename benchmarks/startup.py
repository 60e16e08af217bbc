"""What does it cost to have aiopool in a program at all?

Measured in fresh interpreters, timed from inside. ``import ms``: one import statement; the
facade is lazy, so a second row also touches ``Pool``, which loads the engine. ``first pool
ms``: an event loop, a pool of one worker, one call and the stop of it all, in an interpreter
that never started a process, so the fork server's own start is part of it. ``next pool ms``:
the same once more. Fair: aiopool and the executor use the same start method; anyio starts its
workers with ``subprocess`` and has no other way.

Where aiopool loses: ``import aiopool`` cannot cost less than what it imports, asyncio, once
the pool is used; and its first pool starts what the executor starts, and more.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc

ROOT = Path(__file__).resolve().parent.parent

IMPORT = "import time; start = time.perf_counter(); {}; print((time.perf_counter() - start) * 1e3)"
POOL = "from benchmarks import startup; startup.child({!r}, {!r})"


async def python(code: str) -> str:
    """What a fresh interpreter prints when it runs ``code`` at the project's root."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{code!r} ended with exit status {process.returncode}")
    return output.decode()


def importing(statement: str) -> Callable[[Options], AbstractAsyncContextManager[Measure]]:
    """A contender that runs one import statement."""

    @asynccontextmanager
    async def opened(_: Options) -> AsyncIterator[Measure]:
        async def measure() -> Sample:
            return {"import ms": float(await python(IMPORT.format(statement)))}

        await measure()
        yield measure

    return opened


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
    "imports, and a pool's whole life, in a fresh interpreter",
    [
        Contender("import aiopool", importing("import aiopool")),
        Contender("import aiopool; aiopool.Pool", importing("import aiopool; aiopool.Pool")),
        Contender("import asyncio", importing("import asyncio")),
        Contender("import anyio.to_process", importing("import anyio.to_process")),
        Contender("aiopool.Pool", starting("aiopool")),
        Contender("ProcessPoolExecutor", starting("executor")),
        Contender("anyio.to_process", starting("anyio")),
    ],
    [
        Goal("import aiopool", "import ms", 1, versus="import asyncio"),
        Goal("aiopool.Pool", "first pool ms", 1.5, versus="ProcessPoolExecutor"),
        Goal("aiopool.Pool", "next pool ms", 1.5, versus="ProcessPoolExecutor"),
    ],
    rounds=15,
    quick_rounds=3,
)

if __name__ == "__main__":
    main(BENCHMARK)
