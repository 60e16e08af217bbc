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
from collections import deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import aiopool
from aiopool.errors import PoolClosed, PoolFull, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
    from typing import TypeAlias, Unpack

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
    Context: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

__all__ = ["Lifespan", "PoolMiddleware", "get_pool"]

_log: Final = logging.getLogger("aiopool")
_KEY: Final = "aiopool"
"""The pool's name in the lifespan's state and ``app.state``, and the line's in the scope."""

_AHEAD: Final = 64 * 1024
"""Bytes that are read ahead of the application; a server's own reads are as large."""

_MESSAGE: Final = 64
"""Bytes that a message counts for beside its payload, so that empty ones are bounded too."""

_GONE: Final = frozenset({"http.disconnect", "websocket.disconnect"})
_LAST: Final = frozenset({"http.response.body", "websocket.http.response.body"})
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.http.response.start", "websocket.close"}
)


# --- the pool's life ------------------------------------------------------------------------


@final
class Lifespan:
    """The ``lifespan=`` of an application: a pool from the server's start to its stop.

    ``inner`` is the application's own lifespan; it runs within the pool's, which it finds as
    ``app.state.aiopool``. Requests find the pool there, and as ``request.state.aiopool``.

    ``stop_timeout``: seconds that calls still under way have when the server stops; those left
    are stopped, so all is gone after ``stop_timeout + grace_period + 1``. ``max_workers``: worker
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
        inner = nullcontext() if self._inner is None else self._inner(app)
        async with aiopool.Pool(self._workers(), **self._options) as pool:
            if hasattr(app, "state"):
                setattr(app.state, _KEY, pool)
            async with inner as state:
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

    def _workers(self) -> int:
        if self._max_workers is not None:
            return self._max_workers
        processes = self._server_processes or int(os.environ.get("WEB_CONCURRENCY") or 1)
        return max(1, aiopool.available_cpus() // processes)


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
        line: _Line | None = connection.get(_KEY)
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


class _Answer(NamedTuple):
    """What a client is told in place of an error."""

    status: int
    code: int  # of a websocket's close, RFC 6455 and its registry
    text: str


_ANSWERS: Final[dict[type[BaseException], _Answer]] = {
    PoolFull: _Answer(503, 1013, "Too many requests are waiting"),
    PoolClosed: _Answer(503, 1012, "The service is stopping"),
    TaskTimeout: _Answer(504, 1011, "The work took too long"),
}


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
        line = scope[_KEY] = _Line(scope, receive, send, patience)
        try:
            async with patience:
                try:
                    await self.app(scope, line.receive, line.send)
                finally:
                    line.mute()
        except Exception as error:
            if patience.expired() and type(error) is TimeoutError:
                return  # nobody is there to be told anything
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


@final
class _Line:
    """The connection to one client, heard also while the application does something else.

    Messages are pulled from the server by one task at a time and held until the application takes
    them. Who waits in ``receive`` is told that the client has gone; otherwise the request's time is
    over. After the response nobody listens: servers then report every client as gone, and
    background tasks are to go on.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, patience: asyncio.Timeout
    ) -> None:
        self._receive = receive
        self._send = send
        self._patience = patience
        self._pull: asyncio.Future[Message] | None = None  # what is being asked of the server
        self._held: deque[asyncio.Future[Message]] = deque()
        self._ahead = 0  # bytes held
        self._readers = 0  # who wait in `receive`
        self._listening = self._muted = False
        self._over = False  # nothing more will come
        # Asking for the body makes the client send it, which is the application's decision.
        self._wary = any(name == b"expect" for name, _ in scope["headers"])
        self.way: str | None = "http.response"  # how an error can still be told
        if scope["type"] == "websocket":
            denial = "websocket.http.response"
            self.way = denial if denial in scope.get("extensions", ()) else "websocket.close"

    # The application's side ---------------------------------------------------------------

    def listen(self) -> None:
        """From now on the request ends when its client leaves."""
        self._listening = not self._muted
        self._ask()

    def mute(self) -> None:
        """From now on the request ends by itself."""
        self._muted = True
        self._listening = False

    async def receive(self) -> Message:
        """The next message of the client."""
        self._readers += 1
        try:
            while not self._held and self._pull is not None:
                await asyncio.wait([self._pull])
            message = self._take() if self._held else await self._receive()
            self._wary = False
            self._over = self._over or message["type"] in _GONE
            return message
        finally:
            self._readers -= 1
            self._ask()

    async def send(self, message: Message) -> None:
        """Pass it on, taking note of how far the response has come."""
        kind = message["type"]
        if kind == "websocket.accept":
            self.way = "websocket.close"
        elif kind in _STARTS:
            self.way = None
        if kind == "websocket.close" or (kind in _LAST and not message.get("more_body", False)):
            self.mute()
        await self._send(message)

    # The middleware's side ----------------------------------------------------------------

    async def tell(self, answer: _Answer, retry_after: bytes) -> None:
        """Respond with an error. Only where there is a way."""
        way = self.way
        if way == "websocket.close":
            await self.send({"type": way, "code": answer.code, "reason": answer.text})
            return
        body = answer.text.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        if answer.status == 503:  # noqa: PLR2004 - Service Unavailable
            headers.append((b"retry-after", retry_after))
        await self.send({"type": f"{way}.start", "status": answer.status, "headers": headers})
        await self.send({"type": f"{way}.body", "body": body})

    async def close(self) -> None:
        """Ask the server for nothing more."""
        self._over = True
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.wait([self._pull])

    # The server's side --------------------------------------------------------------------

    def _ask(self) -> None:
        """Pull the next message, unless somebody does, enough is held, or nobody wants it."""
        wanted = self._listening and not (self._over or self._wary or self._readers)
        if wanted and self._pull is None and self._ahead < _AHEAD:
            self._pull = asyncio.ensure_future(self._receive())
            self._pull.add_done_callback(self._heard)

    def _heard(self, pull: asyncio.Future[Message]) -> None:
        self._pull = None
        if pull.cancelled():
            return
        self._held.append(pull)
        self._over = pull.exception() is not None or pull.result()["type"] in _GONE
        if not self._over:
            self._ahead += _weight(pull.result())
            self._ask()
        elif self._listening and not self._readers:
            self._patience.reschedule(0)

    def _take(self) -> Message:
        """The oldest message held; the last of all is told to everybody who asks."""
        if self._over and len(self._held) == 1:
            return self._held[0].result()
        message = self._held.popleft().result()
        self._ahead -= _weight(message)
        return message


def _weight(message: Message) -> int:
    payload = message.get("body") or message.get("bytes") or message.get("text") or b""
    return _MESSAGE + len(payload)
