"""A worker process as the event loop sees it: started, signalled, noticed to be dead, reaped.

Three things tell of the end: the socket's end, the future of the one open executor call, and on
Linux a process descriptor, which does so even where a grandchild holds the other two open.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from time import monotonic
from traceback import clear_frames
from typing import TYPE_CHECKING, Final, Protocol, final

from aiopool._backends.connection import Connection, Listener
from aiopool._backends.launch import Launched
from aiopool._worker.main import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future
    from multiprocessing.context import BaseContext

    from aiopool._wire.framing import Bytes
    from aiopool._wire.slate import Slate
    from aiopool._worker.main import Plan

_LAST_WAIT: Final = 5.0
"""Seconds an exiting interpreter waits for a worker to exist."""


class Owner(Listener, Protocol):
    """Who is told what a worker process does."""

    def process_ended(self) -> None:
        """The process has ended, or can no longer serve; may be told more than once."""


@final
class WorkerProcess:
    """One process and what joins it to this one."""

    def __init__(self, owner: Owner, keeper: Executor) -> None:
        self._owner = owner
        self._keeper = keeper  # threads for what blocks
        self._launching: Future[Launched] | None = None  # in a thread
        self._launched: Launched | None = None
        self._connection: Connection | None = None
        self._pidfd: int | None = None
        self.pid: int | None = None  # known once it is started
        self.born = monotonic()

    @property
    def slate(self) -> Slate:
        """The memory it shares with this process."""
        assert self._launched is not None
        assert self._launched.slate is not None
        return self._launched.slate

    @property
    def words(self) -> memoryview:
        """The words of its slate."""
        return self.slate.words

    async def start(self, context: BaseContext, plan: Plan) -> None:
        """Start it and open the one call that serves; returns before it is ready.

        Raises OSError where the system refuses a process or a descriptor.
        """
        loop = asyncio.get_running_loop()
        self._launching = self._keeper.submit(Launched, context, plan)
        try:
            launched = await asyncio.shield(asyncio.wrap_future(self._launching))
        except Exception as error:  # who keeps it shall not keep the pipes of a half-made process
            clear_frames(error.__traceback__)
            raise
        self._adopt(launched)
        self._connection = await Connection.open(self._owner, launched.sock)
        self._watch(loop)
        serving = loop.run_in_executor(launched.executor, serve)
        serving.add_done_callback(self._serving_ended)

    def ready(self) -> None:
        """It said hello, so it has its own copies of what it was handed."""
        assert self._launched is not None
        self._launched.started()

    def send(self, kind: int, body: Bytes, buffers: Sequence[Bytes]) -> None:
        """Write one frame to it."""
        assert self._connection is not None
        self._connection.send(kind, body, buffers)

    def catch_up(self) -> None:
        """Take in what it has written."""
        if self._connection is not None:
            self._connection.catch_up()

    def drain(self) -> None:
        """It is dead: take what it had written, then let the connection end."""
        if self._connection is not None:
            self._connection.drain()

    def interrupt(self) -> None:
        """Have its interrupt handler run; nothing where there are no such signals."""
        if sys.platform != "win32":
            self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, whatever it is doing; harmless if it has ended."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def abandon(self) -> None:
        """End it without the event loop, which may be gone, and wait until it has ended.

        ``concurrent.futures`` must find the executor's thread ended, which it joins in any case:
        before, it writes to the pipe that this thread closes, and nothing keeps the two apart.
        """
        if self._launching is None:
            return
        with suppress(Exception):  # it could not start, or not in that time
            launched = self._adopt(self._launching.result(_LAST_WAIT))
            launched.hang_up()
            self.kill()
            launched.wait()

    def leave(self) -> None:
        """Close the socket: an idle worker ends by itself."""
        if self._connection is not None:
            self._connection.close()

    def reap(self, patience: float, reaped: Callable[[int | None], None]) -> None:
        """See it to its end, killing it after ``patience`` seconds; ``reaped`` gets its exit code.

        By callbacks and not by a task: a loop that is shut down cancels tasks.
        """
        if self._launching is None:
            asyncio.get_running_loop().call_soon(reaped, None)
        else:
            launching = asyncio.wrap_future(self._launching)
            launching.add_done_callback(partial(self._wait, patience, reaped))

    def _adopt(self, launched: Launched) -> Launched:
        self._launched = launched
        self.pid = launched.pid
        return launched

    def _wait(
        self,
        patience: float,
        reaped: Callable[[int | None], None],
        launching: asyncio.Future[Launched],
    ) -> None:
        if launching.cancelled() or launching.exception() is not None:
            reaped(None)
            return
        launched = self._adopt(launching.result())
        self.leave()
        loop = asyncio.get_running_loop()
        killing = loop.call_later(patience, self.kill)
        waiting = loop.run_in_executor(self._keeper, launched.wait)
        waiting.add_done_callback(partial(self._ended, killing, reaped))

    def _ended(
        self,
        killing: asyncio.TimerHandle,
        reaped: Callable[[int | None], None],
        waiting: asyncio.Future[int | None],
    ) -> None:
        killing.cancel()
        self._unwatch(asyncio.get_running_loop())
        if self._launched is not None:
            self._launched.release()
        reaped(waiting.result())

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        pid = self.pid
        if pid is None or not hasattr(os, "pidfd_open"):
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # it ended already, or the kernel is too old: the socket will tell
            return
        loop.add_reader(self._pidfd, self._process_ended, loop)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pidfd is not None:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _process_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pidfd is not None:
            loop.remove_reader(self._pidfd)
        self._owner.process_ended()

    def _serving_ended(self, serving: asyncio.Future[None]) -> None:
        if not serving.cancelled():
            serving.exception()  # a broken pool or a broken protocol: the worker is done for
        self._owner.process_ended()

    def _signal(self, signum: int) -> None:
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signum)
            elif self.pid is not None:
                os.kill(self.pid, signum)
        except ProcessLookupError:
            return  # it ended first, which is what was wanted
