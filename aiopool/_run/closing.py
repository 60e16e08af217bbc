"""How a pool ends: drained or cut short, once, whoever asks and however often.

Closing is one task of its own. Those who ask wait for it; one that is cancelled meanwhile, or that
asks to cut things short, turns draining into cancelling, and still waits until all is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._backends import leaving
from aiopool._backends.threads import join
from aiopool._run.stream import Flow
from aiopool._run.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from concurrent.futures import Executor

    from aiopool._backends.fleet import Fleet
    from aiopool._backends.tasks import TaskBackend
    from aiopool._run.backlog import Backlog
    from aiopool._run.engine import Engine

_log: Final = logging.getLogger("aiopool")
_MARGIN: Final = 0.5
"""Seconds beyond the grace period that stopped work has to be gone."""


@final
class Closer:
    """Ends one pool."""

    def __init__(  # noqa: PLR0913 - all that has to be ended
        self,
        *,
        engine: Engine,
        backlog: Backlog,
        tasks: TaskBackend,
        fleet: Fleet | None,
        threads: Executor,
        grace: float,
    ) -> None:
        self._engine = engine
        self._backlog = backlog
        self._tasks = tasks
        self._fleet = fleet
        self._threads = threads
        self._grace = grace
        self._short = asyncio.Event()  # set: cancel what is left
        self._closing: asyncio.Task[None] | None = None
        self._hook: AsyncGenerator[None, None] | None = None
        self._left = False  # by the whole interpreter

    @property
    def begun(self) -> bool:
        """Whether the pool takes no more work."""
        return self._closing is not None

    @property
    def done(self) -> bool:
        """Whether all is gone."""
        return self._closing is not None and self._closing.done()

    def arm(self) -> None:
        """Have the event loop close the pool if nobody else has when the loop ends."""
        self._hook = self._at_loop_end()
        with contextlib.suppress(StopIteration):  # it has come to its yield, without a wait
            self._hook.asend(None).send(None)
        leaving.remember(self)

    def abandon(self) -> None:
        """The interpreter exits and no loop will run again: end the hook here and now."""
        self._left = True
        hook, self._hook = self._hook, None
        if hook is not None:
            with contextlib.suppress(StopIteration, RuntimeError):
                hook.aclose().send(None)

    def close(self, *, drain: bool, timeout: float | None) -> Ticket[None]:
        """Begin, or join in; the ticket is done when all is gone."""
        loop = self._engine.loop
        ticket: Ticket[None] = Ticket(loop)
        if self._closing is None:
            self._closing = loop.create_task(self._close())
        self._closing.add_done_callback(partial(_tell, ticket))
        ticket.on_cancel(self.cut_short)
        if not drain:
            self.cut_short()
        elif timeout is not None:
            timer = loop.call_later(timeout, self.cut_short)
            self._closing.add_done_callback(lambda _: timer.cancel())
        return ticket

    def cut_short(self) -> None:
        """Cancel what is left instead of waiting for it."""
        self._short.set()

    def forsake(self) -> None:
        """The pool was dropped unclosed; may be called in any thread."""
        loop = self._engine.loop
        if not self.begun and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: self.close(drain=False, timeout=None))

    async def _close(self) -> None:
        self._backlog.refuse_all()
        flows = [each.sink for each in self._engine.live if isinstance(each.sink, Flow)]
        for flow in flows:
            flow.cut()
        await self._insist(self._engine.until_empty, self._short.wait)
        if self._engine.live:
            self._engine.stop_all()
            bound = partial(asyncio.sleep, self._grace + _MARGIN)
            await self._insist(self._engine.until_empty, bound)
            self._forsake_tasks()
        for flow in flows:
            await self._insist(flow.input.aclose)
        try:
            if self._fleet is not None:
                await self._insist(self._fleet.close)
            if self._threads_busy:  # a call that was given up on: its thread ends when it does
                self._threads.shutdown(wait=False)
            else:
                await self._insist(partial(join, self._threads))
        finally:
            leaving.forget(self)
            hook, self._hook = self._hook, None
            if hook is not None:
                await hook.aclose()

    @property
    def _threads_busy(self) -> bool:
        return self._engine.venues["thread"].running > 0  # type: ignore[attr-defined, no-any-return]

    def _forsake_tasks(self) -> None:
        for task in self._tasks.forsake():
            _log.warning("a call ignores its cancellation and is left behind: %r", task)

    async def _insist(self, *ways: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Wait until one of these is done, through any cancellation; they can be begun again.

        A loop that is being shut down cancels all tasks, this one and the ways among them, while
        what they do is just what is needed then.
        """
        while True:
            tasks = [self._engine.loop.create_task(way()) for way in ways]
            await self._until_one(tasks)
            ended = [task for task in tasks if task.done() and not task.cancelled()]
            for task in tasks:
                task.cancel()
            if ended:
                ended[0].result()
                return

    async def _until_one(self, tasks: list[asyncio.Task[object]]) -> None:
        while not any(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self.cut_short()

    async def _at_loop_end(self) -> AsyncGenerator[None, None]:
        """Suspended for the pool's life; a loop closes such generators when it is shut down."""
        try:
            yield
        finally:
            self._hook = None  # it is ending already
            if not self.begun and not self._left:
                await self.close(drain=False, timeout=None)


def _tell(ticket: Ticket[None], closing: asyncio.Task[None]) -> None:
    error = None if closing.cancelled() else closing.exception()
    if error is None:
        ticket.conclude(None)
    else:
        ticket.fail(error)
