"""A pool in an ASGI application: Starlette, FastAPI, or no framework at all.

::

    async def thumbnail(request):
        pool = await get_pool(request)
        return Response(await pool.run(shrink, await request.body(), timeout=5))


    app = Starlette(
        routes=[Route("/thumbnail", thumbnail, methods=["POST"])],
        lifespan=Lifespan(max_pending=64),
        middleware=[Middleware(PoolMiddleware)],
    )

``Lifespan`` opens the pool as the server starts and closes it within a bound as it stops.
``get_pool`` hands it to a request that may come in, and from then on the request is cancelled
when its client leaves: its running calls stop, its waiting ones vanish. ``PoolMiddleware`` is what
listens for that, and answers 503 and 504 for an overloaded or closing pool and a timeout.

Rules: nothing of a framework is imported unless FastAPI asks for the signature of ``get_pool``.
What the client sends is read ahead of the application by a bounded number of bytes, and only once
the pool was asked for. Prior art: ``svcs.starlette``; the ASGI specification,
https://asgi.readthedocs.io. Not here: per-route limits, which are ``limiter=`` and ``limit=``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from inspect import Parameter, Signature
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

import aiopool
from aiopool._asgi.departure import departure
from aiopool._asgi.line import Answer, Line
from aiopool.errors import PoolClosed, PoolFull, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from typing import TypeAlias, Unpack

    from aiopool._asgi.line import Receive, Scope, Send

    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
    Context: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

__all__ = ["Lifespan", "PoolMiddleware", "get_pool", "give_way"]

_log: Final = logging.getLogger("aiopool")
_KEY: Final = "aiopool"
"""The pool's name in the lifespan's state and ``app.state``, and the line's in the scope."""


# --- the pool's life ------------------------------------------------------------------------


@final
class Lifespan:
    """The ``lifespan=`` of an application: a pool from the server's start to its stop.

    ``inner`` is the application's own lifespan; it runs within the pool's, which it finds as
    ``app.state.aiopool``. Requests find the pool there, and as ``request.state.aiopool``.

    ``stop_timeout``: seconds that calls still under way have when the server stops; those left
    are stopped, so all is gone after ``stop_timeout + grace_period + 1``. Before that, SIGTERM is
    kept from the server for as long, unless the pool is idle sooner: meanwhile ``get_pool`` lets
    nobody new in, and connections are accepted and answered. ``max_workers``: worker
    processes of this server process, by default its share of the CPUs: all of them divided by
    ``server_processes``, which is the environment's ``WEB_CONCURRENCY`` unless given, and 1 where
    nobody says. The other options are those of ``aiopool.Pool``, and checked as the server starts.
    """

    def __init__(
        self,
        inner: Context | None = None,
        /,
        *,
        stop_timeout: float = 5.0,
        max_workers: int | None = None,
        server_processes: int | None = None,
        **options: Unpack[aiopool.PoolOptions],
    ) -> None:
        self._inner = inner
        self._stop_timeout = stop_timeout
        self._max_workers = max_workers
        self._server_processes = server_processes
        self._options = options

    @asynccontextmanager
    async def __call__(self, app: object) -> AsyncIterator[dict[str, Any]]:
        """Open the pool for ``app``; the state that requests are to find."""
        self._check()
        inner = nullcontext() if self._inner is None else self._inner(app)
        async with aiopool.Pool(self._workers(), **self._options) as pool:
            if hasattr(app, "state"):
                setattr(app.state, _KEY, pool)
            async with inner as state:
                with departure(pool, self._stop_timeout):
                    yield {**(state or {}), _KEY: pool}
            await pool.aclose(timeout=self._stop_timeout)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a ``lifespan`` scope, for an application without a framework that does."""
        await receive()
        phase = "startup"
        try:
            async with self(scope.get("app")) as state:
                scope["state"].update(state)
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            await send({"type": f"lifespan.{phase}.failed", "message": repr(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    def _check(self) -> None:
        seconds: object = self._stop_timeout
        processes: object = self._server_processes
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < inf:
            raise ValueError(f"stop_timeout={seconds!r}: must be seconds, 0 or more")
        if processes is not None and not (isinstance(processes, int) and processes > 0):
            raise ValueError(f"server_processes={processes!r}: must be an int from 1 on, or None")

    def _workers(self) -> int:
        if self._max_workers is not None:
            return self._max_workers
        processes = self._server_processes or int(os.environ.get("WEB_CONCURRENCY") or 1)
        return max(1, aiopool.available_cpus() // processes)


def give_way() -> None:
    """Have this process run only while nobody else wants its CPU; an ``initializer=`` of workers.

    For a service with no more CPUs than workers: its event loop then finds a CPU at once whatever
    the workers do. On a machine that others keep busy the workers starve. It is the policy
    SCHED_IDLE where there is one (Linux), else niceness 19, and nothing on Windows.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)


# --- the pool of a request ------------------------------------------------------------------


@final
class _GetPool:
    """``await get_pool(request)``: the application's pool, for a request about to use it.

    Takes a Starlette or FastAPI request or websocket, or a plain ASGI scope, and is a FastAPI
    dependency as it is; a coroutine, so that FastAPI calls it on the event loop. Raises
    ``PoolFull`` if ``max_pending`` calls wait already and ``PoolClosed`` if the pool takes none.

    Under ``PoolMiddleware`` the request is cancelled from here on when its client leaves, until the
    response is complete. What has to go on regardless belongs into ``asyncio.shield`` or a
    background task, or takes the pool from ``request.state.aiopool`` instead.
    """

    async def __call__(self, connection: Mapping[str, Any]) -> aiopool.Pool:
        pool = _pool_of(connection)
        pool.admit()
        line: Line | None = connection.get(_KEY)
        if line is not None:
            line.listen()
        return pool

    @property
    def __signature__(self) -> Signature:
        """What FastAPI reads: the class for which it injects a request and a websocket alike."""
        from starlette.requests import HTTPConnection

        kind = Parameter.POSITIONAL_OR_KEYWORD
        return Signature([Parameter("connection", kind, annotation=HTTPConnection)])


get_pool: Final = _GetPool()


def _pool_of(connection: Mapping[str, Any]) -> aiopool.Pool:
    pool: aiopool.Pool | None = (connection.get("state") or {}).get(_KEY)
    if pool is None:
        pool = getattr(getattr(connection.get("app"), "state", None), _KEY, None)
    if pool is None:
        message = (
            "no pool was opened for this application: give it lifespan=aiopool.asgi.Lifespan(), "
            "and run it on a server that has not turned lifespans off"
        )
        raise PoolClosed(message)
    return pool


# --- requests that end early ----------------------------------------------------------------


_ANSWERS: Final[dict[type[BaseException], Answer]] = {
    PoolFull: Answer(503, 1013, "Too many requests are waiting"),
    PoolClosed: Answer(503, 1012, "The service is stopping"),
    TaskTimeout: Answer(504, 1011, "The work took too long"),
}

_LEFT: Final = Answer(499, 1000, "The client has left")
"""What nobody hears; middleware around this one insists on a response."""


@final
class PoolMiddleware:
    """ASGI middleware: cancels requests whose client has left, and answers 503 and 504.

    A request that has called ``get_pool`` is cancelled when its client disconnects while the
    application does not listen itself; one that waits in ``receive`` is told there, as ever.
    ``PoolFull`` and ``PoolClosed`` become 503 with ``Retry-After: retry_after`` (seconds), and
    ``TaskTimeout`` 504; a websocket is closed with 1013, 1012 and 1011. Once a response has
    started they are raised to the server as any other error is at all times. A group counts as
    the error it holds if it holds one.
    """

    def __init__(self, app: App, *, retry_after: int = 1) -> None:
        self.app = app
        self._retry_after = str(retry_after).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        patience = asyncio.timeout(None)  # whose time is over when the client has gone
        line = scope[_KEY] = Line(scope, receive, send, patience)
        try:
            async with patience:
                try:
                    await self.app(scope, line.receive, line.send)
                finally:
                    line.mute()
        except Exception as error:
            if patience.expired() and type(error) is TimeoutError:
                if line.way == "http.response":
                    with suppress(OSError):  # which servers may raise now
                        await line.tell(_LEFT, b"")
                return
            answer = _ANSWERS.get(type(_single(error)))
            if answer is None or line.way is None:
                raise
            _log.info("%s is answered %d: %s", scope["path"], answer.status, error)
            await line.tell(answer, self._retry_after)
        finally:
            scope.pop(_KEY, None)  # the two hold each other
            await line.close()


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
