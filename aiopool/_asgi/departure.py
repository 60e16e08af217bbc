"""A server's SIGTERM, put off until the calls under way have ended.

A server that is told to stop closes its listening socket at once, and whoever comes then finds
nobody. While the pool still works the socket may as well stay open, and newcomers be told to come
back: so the signal is taken in the server's stead, and handed on once the pool is idle.

Rules: only a handler that the server itself has installed is stood in for, in the main thread; a
second SIGTERM is handed on at once. Servers whose handler belongs to the event loop, which no other
can stand in for, are told right away, as ever.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiopool import Pool

    Handler: TypeAlias = Callable[[int, Any], object]


@contextmanager
def departure(pool: Pool, patience: float) -> Iterator[None]:
    """While this is entered the server hears of SIGTERM up to so many seconds later."""
    server = signal.getsignal(signal.SIGTERM)
    if not callable(server) or threading.current_thread() is not threading.main_thread():
        yield
        return
    leaving = _Leaving(pool, patience, server)
    signal.signal(signal.SIGTERM, leaving)
    try:
        yield
    finally:
        leaving.end()
        if signal.getsignal(signal.SIGTERM) is leaving:
            signal.signal(signal.SIGTERM, server)


@final
class _Leaving:
    """What SIGTERM does meanwhile."""

    def __init__(self, pool: Pool, patience: float, server: Handler) -> None:
        self._pool = pool
        self._patience = patience
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._told = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self, signum: int, frame: object) -> None:
        if self._told:
            self._server(signum, frame)
        else:
            self._told = True
            self._loop.call_soon_threadsafe(self._begin)

    def end(self) -> None:
        """The server stops, whoever told it."""
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._leave())

    async def _leave(self) -> None:
        await self._pool.drain(self._patience)
        self._server(signal.SIGTERM, None)
