"""How soon is a dead worker noticed and replaced, and who pays for it?

Measured: a pool of one worker that executes a long call is hit with SIGKILL; ``error ms`` is
the time from the kill to the exception of that call, ``answer ms`` the time from the kill to
the answer of the next call, which needs a new worker. ``lost`` counts the calls that fail
when one of two busy workers is killed while forty calls are under way. Fair: everyone has the
pid of the worker from a call made before; an executor broken for good by one death,
``ProcessPoolExecutor`` and loky, is closed and made anew, as its users do.
``multiprocessing.Pool`` is left out: it replaces the worker but never answers the victim's call.

Where aiopool loses: nowhere known; a machine short of processes or memory makes everyone's
replacement slow.
"""

import asyncio
import functools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiopool
from benchmarks.harness import Benchmark, Contender, Goal, Measure, Options, Sample, main
from benchmarks.jobs import inc, spin

SETTLE = 0.05
"""Seconds from the submission of the calls to the kill."""

CALLS = 40
CALL = 0.02


async def kill_and_ask(
    pid: int, victim: Awaitable[object], ask: Callable[[], Awaitable[int]]
) -> dict[str, float]:
    """Kill ``pid``, wait for the victim's error, then for the answer of another call."""
    victim = asyncio.ensure_future(victim)
    await asyncio.sleep(SETTLE)
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    with suppress(Exception):  # everyone has a type of its own for this
        await victim
    noticed = time.perf_counter()
    await ask()
    answered = time.perf_counter()
    return {"error ms": (noticed - start) * 1e3, "answer ms": (answered - start) * 1e3}


async def kill_and_count(pid: int, submit: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Kill ``pid`` amid many calls and count those that fail."""
    calls = [submit() for _ in range(CALLS)]
    await asyncio.sleep(SETTLE)
    os.kill(pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return {f"lost of {CALLS}": sum(isinstance(outcome, Exception) for outcome in outcomes)}


@asynccontextmanager
async def with_aiopool(options: Options) -> AsyncIterator[Measure]:
    """The pool replaces the worker by itself."""

    async def recover() -> dict[str, float]:
        async with aiopool.Pool(max_workers=1, mp_context=options.context) as pool:
            pid = await pool.run(os.getpid)
            victim = pool.submit(time.sleep, 60)
            return await kill_and_ask(pid, victim, lambda: pool.run(inc, 1))

    async def count() -> dict[str, float]:
        workers = max(2, options.workers)
        async with aiopool.Pool(max_workers=workers, mp_context=options.context) as pool:
            await asyncio.gather(*[pool.run(spin, CALL) for _ in range(workers)])
            pid = await pool.run(os.getpid)
            return await kill_and_count(pid, lambda: pool.submit(spin, CALL))

    async def measure() -> Sample:
        return {**await recover(), **await count()}

    yield measure


@asynccontextmanager
async def with_executor(options: Options) -> AsyncIterator[Measure]:
    """The pool is broken; its user makes another."""
    loop = asyncio.get_running_loop()

    async def recover() -> dict[str, float]:
        executor = ProcessPoolExecutor(1, mp_context=options.context)

        async def rebuild() -> int:
            nonlocal executor
            executor.shutdown()
            executor = ProcessPoolExecutor(1, mp_context=options.context)
            return await loop.run_in_executor(executor, inc, 1)

        pid = await loop.run_in_executor(executor, os.getpid)
        victim = loop.run_in_executor(executor, time.sleep, 60)
        figures = await kill_and_ask(pid, victim, rebuild)
        executor.shutdown()
        return figures

    async def count() -> dict[str, float]:
        workers = max(2, options.workers)
        with ProcessPoolExecutor(workers, mp_context=options.context) as executor:
            list(executor.map(spin, [CALL] * workers))
            pid = await loop.run_in_executor(executor, os.getpid)
            submit = functools.partial(loop.run_in_executor, executor, spin, CALL)
            return await kill_and_count(pid, submit)

    async def measure() -> Sample:
        return {**await recover(), **await count()}

    yield measure


@asynccontextmanager
async def with_anyio(_: Options) -> AsyncIterator[Measure]:
    """The next call starts another worker; ``lost`` is left out."""
    from anyio import to_process

    yield lambda: recovering(to_process.run_sync)


@asynccontextmanager
async def with_loky(_: Options) -> AsyncIterator[Measure]:
    """The executor is broken; the next ``get_reusable_executor`` is another."""
    import loky

    async def call(fn: Callable[..., object], *args: object) -> object:
        executor = loky.get_reusable_executor(max_workers=1)
        return await asyncio.wrap_future(executor.submit(fn, *args))

    try:
        yield lambda: recovering(call)
    finally:
        loky.get_reusable_executor(max_workers=1).shutdown(wait=True)


@asynccontextmanager
async def with_deadpool(options: Options) -> AsyncIterator[Measure]:
    """Replaces the worker by itself."""
    from deadpool import Deadpool

    with Deadpool(1, mp_context=options.context) as executor:
        yield lambda: recovering(lambda fn, *args: asyncio.wrap_future(executor.submit(fn, *args)))


@asynccontextmanager
async def with_pebble(options: Options) -> AsyncIterator[Measure]:
    """Replaces the worker by itself."""
    from pebble import ProcessPool

    with ProcessPool(1, context=options.context) as pool:
        yield lambda: recovering(
            lambda fn, *args: asyncio.wrap_future(pool.schedule(fn, args=args))
        )


async def recovering(call: Callable[..., Awaitable[Any]]) -> Sample:
    """Kill the one worker of a pool that lives on; ``lost`` is left out."""
    pid = await call(os.getpid)
    return await kill_and_ask(pid, call(time.sleep, 60), lambda: call(inc, 1))


BENCHMARK = Benchmark(
    "recovery",
    "a worker is killed in the middle of a call",
    [
        Contender("aiopool", with_aiopool),
        Contender("ProcessPoolExecutor, rebuilt", with_executor),
        Contender("loky, rebuilt", with_loky, restless=True),
        Contender("anyio.to_process", with_anyio),
        Contender("deadpool", with_deadpool, restless=True),
        Contender("pebble", with_pebble, restless=True),
    ],
    [
        Goal("aiopool", "error ms", 5),
        Goal("aiopool", "answer ms", 40),
        Goal("aiopool", f"lost of {CALLS}", 1),
    ],
    quick_rounds=1,
)

if __name__ == "__main__":
    main(BENCHMARK)
