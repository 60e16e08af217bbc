"""The same small web service twice, for ``benchmarks.web``: on aiopool, and on an executor.

Each is a factory for uvicorn; the number of workers is in the environment, as ``SITE_WORKERS``.
``/`` is answered at once; ``/work`` maps 20 calls of half a millisecond. With ``SITE_GIVES_WAY``
the workers are initialized with ``aiopool.asgi.give_way``.
"""

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from aiopool.asgi import Lifespan, PoolMiddleware, get_pool, give_way
from benchmarks.jobs import spin

CALLS = [0.0005] * 20


def workers() -> int:
    """Worker processes of the service."""
    return int(os.environ["SITE_WORKERS"])


INITIALIZER = give_way if os.environ.get("SITE_GIVES_WAY") else None


async def trivial(_: Request) -> Response:
    """The answer that others must not delay."""
    return PlainTextResponse("here")


def on_aiopool() -> Starlette:
    """``pool.map`` in a request."""

    async def work(request: Request) -> Response:
        pool = await get_pool(request)
        await pool.map(spin, CALLS)
        return PlainTextResponse("done")

    return Starlette(
        routes=[Route("/", trivial), Route("/work", work)],
        lifespan=Lifespan(max_workers=workers(), mp_context="forkserver", initializer=INITIALIZER),
        middleware=[Middleware(PoolMiddleware)],
    )


def on_executor() -> Starlette:
    """``run_in_executor`` for every call, on one ``ProcessPoolExecutor`` for the service."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(workers(), context, INITIALIZER) as app.state.executor:
            yield

    async def work(request: Request) -> Response:
        loop, executor = asyncio.get_running_loop(), request.app.state.executor
        await asyncio.gather(*[loop.run_in_executor(executor, spin, each) for each in CALLS])
        return PlainTextResponse("done")

    return Starlette(routes=[Route("/", trivial), Route("/work", work)], lifespan=lifespan)
