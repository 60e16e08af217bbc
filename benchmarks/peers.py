"""How aiopool and everyone beside it are opened, each in one place.

Two kinds. ``calls``: a function that takes a job and its arguments and gives something that can
be awaited. ``maps``: a coroutine function that takes a job and items and gives the list of the
results. All have their workers started and warm when they are given, as many as were asked for,
and by the same method where they have a choice: anyio, aiomisc and loky have a way of their own.

A map that blocks runs on the main thread with nothing beside it, which is better than an async
program could give it. Libraries are imported where they are opened: who is not installed raises
ModuleNotFoundError, and the harness leaves it out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import aiopool
from benchmarks.harness import Options
from benchmarks.jobs import inc, later

Call: TypeAlias = Callable[..., Awaitable[Any]]
Map: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], Awaitable[list[Any]]]

Opened = AbstractAsyncContextManager
"""What gives an opened peer, and closes it."""

BACKLOG = 100_000
"""More calls than any benchmark has waiting at once."""


async def warmed(call: Call) -> Call:
    """Give ``call`` when every worker has started."""
    await asyncio.gather(*[call(inc, number) for number in range(100)])
    return call


@asynccontextmanager
async def pool(options: Options) -> AsyncIterator[aiopool.Pool]:
    """aiopool itself."""
    async with aiopool.Pool(options.workers, mp_context=options.context) as opened:
        await warmed(opened.submit)
        yield opened


@asynccontextmanager
async def run_calls(options: Options) -> AsyncIterator[Call]:
    """``pool.run``."""
    async with pool(options) as opened:
        yield opened.run


@asynccontextmanager
async def submit_calls(options: Options) -> AsyncIterator[Call]:
    """``pool.submit``: a handle for every call."""
    async with pool(options) as opened:
        yield opened.submit


@asynccontextmanager
async def pool_maps(options: Options) -> AsyncIterator[Map]:
    """``pool.map``, which finds its own batches."""
    async with pool(options) as opened:
        yield opened.map


@asynccontextmanager
async def submit_maps(options: Options) -> AsyncIterator[Map]:
    """``pool.submit`` of every item."""
    async with pool(options) as opened:
        yield gathering(opened.submit)


def gathering(call: Call) -> Map:
    """A call for every item, all at once."""

    async def gathered(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return await asyncio.gather(*[call(fn, item) for item in items])

    return gathered


# --- calls ----------------------------------------------------------------------------------


def through(executor: Executor) -> Call:
    """``loop.run_in_executor``: a future for every call."""
    loop = asyncio.get_running_loop()

    def call(fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        return loop.run_in_executor(executor, fn, *args)

    return call


@asynccontextmanager
async def executor_calls(options: Options) -> AsyncIterator[Call]:
    """``run_in_executor`` on a ``ProcessPoolExecutor``."""
    with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:
        yield await warmed(through(executor))


@asynccontextmanager
async def anyio_calls(options: Options) -> AsyncIterator[Call]:
    """``to_process.run_sync``: a coroutine for every call."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(options.workers)

    async def call(fn: Callable[..., Any], *args: Any) -> Any:
        return await to_process.run_sync(fn, *args, limiter=limiter)

    yield await warmed(call)


@asynccontextmanager
async def aiomisc_calls(options: Options) -> AsyncIterator[Call]:
    """``WorkerPool.create_task``, aiomisc's own processes behind a socket."""
    from aiomisc import WorkerPool

    async with WorkerPool(options.workers) as workers:
        yield await warmed(workers.create_task)


@asynccontextmanager
async def aiomultiprocess_calls(options: Options) -> AsyncIterator[Call]:
    """``Pool.apply``, which takes coroutine functions only."""
    import aiomultiprocess

    aiomultiprocess.set_start_method("forkserver")
    async with aiomultiprocess.Pool(options.workers) as workers:

        async def call(fn: Callable[..., Any], *args: Any) -> Any:
            return await workers.apply(later, (fn, *args))

        yield await warmed(call)


@asynccontextmanager
async def deadpool(options: Options) -> AsyncIterator[Any]:
    """A ``Deadpool``, which is an executor."""
    from deadpool import Deadpool

    with Deadpool(options.workers, mp_context=options.context, max_backlog=BACKLOG) as executor:
        await warmed(through(executor))
        yield executor


@asynccontextmanager
async def deadpool_calls(options: Options) -> AsyncIterator[Call]:
    """``run_in_executor`` on a ``Deadpool``."""
    async with deadpool(options) as executor:
        yield through(executor)


# --- maps -----------------------------------------------------------------------------------


@asynccontextmanager
async def executor_call_maps(options: Options) -> AsyncIterator[Map]:
    """What an async program does without a pool of its own: a future for every item."""
    async with executor_calls(options) as call:
        yield gathering(call)


@asynccontextmanager
async def anyio_maps(options: Options) -> AsyncIterator[Map]:
    """A coroutine for every item."""
    async with anyio_calls(options) as call:
        yield gathering(call)


def executor_maps(chunksize: int) -> Callable[[Options], Opened[Map]]:
    """``executor.map`` with a chunk size somebody chose."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Map]:
        with ProcessPoolExecutor(options.workers, mp_context=options.context) as executor:

            async def work(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
                return list(executor.map(fn, items, chunksize=chunksize))

            await work(inc, range(100))
            yield work

    return opened


def multiprocessing_maps(chunksize: int | None = None) -> Callable[[Options], Opened[Map]]:
    """``multiprocessing.Pool.map``, by default four chunks for each worker."""

    @asynccontextmanager
    async def opened(options: Options) -> AsyncIterator[Map]:
        with options.context.Pool(options.workers) as workers:

            async def work(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
                return workers.map(fn, items, chunksize=chunksize)

            await work(inc, range(100))
            yield work

    return opened


@asynccontextmanager
async def joblib_maps(options: Options) -> AsyncIterator[Map]:
    """``Parallel`` with its default backend, loky, and its automatic batches."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=options.workers) as parallel:

        async def work(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return list(parallel(delayed(fn)(item) for item in items))

        await work(inc, range(1_000))
        yield work


@asynccontextmanager
async def mpire_maps(options: Options) -> AsyncIterator[Map]:
    """``WorkerPool.map``, kept alive between its maps, with its own chunks."""
    from mpire import WorkerPool

    with WorkerPool(options.workers, start_method="forkserver", keep_alive=True) as workers:

        async def work(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
            return list(workers.map(fn, items))

        await work(inc, range(1_000))
        yield work
