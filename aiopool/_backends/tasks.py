"""Coroutine functions on the event loop: each call an ``asyncio.Task`` of its own.

The next task is started from the done-callback of the one that made room, so a waiting call is
no task yet and costs nothing but its place in the input.

A call that waits for its own pool, or for another one, gives its place away meanwhile and takes
it back in its turn, by its original priority and age: the seat a task sits on knows both moves, and
is found through a context variable, so tasks that the call starts itself lend the same seat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, final

from aiopool._core.workload import Batch, Workload
from aiopool._wire.failure import harmless
from aiopool.errors import RemoteError, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Context

    from aiopool._backends.base import Client
    from aiopool._core.scheduler import CountedVenue

_seat: Final[ContextVar[Seat | None]] = ContextVar("aiopool_seat", default=None)


def current_seat() -> Seat | None:
    """The seat of the call that is running here, None outside of any."""
    seat = _seat.get()
    return seat if seat is not None and seat.taken else None


@final
class Seat:
    """A running call's place on the event loop."""

    __slots__ = ("_batch", "_lent", "_venue", "_waiter", "client", "taken")

    def __init__(self, client: Client, venue: CountedVenue, batch: Batch) -> None:
        self.client = client
        self.taken = True  # until the call has ended
        self._venue = venue
        self._batch = batch
        self._lent = 0  # how many waits it is lent for
        self._waiter: asyncio.Future[None] | None = None  # set while it waits for a place again

    def wait(self, waiting: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
        """Wait for the pool with the place lent; for use in ``__await__``."""
        self._lend()
        try:
            result = yield from waiting
        except BaseException:
            self._take_back()  # without waiting: a cancelled call is to clean up now
            raise
        yield from self._resume().__await__()
        return result

    def lend_until(self, future: asyncio.Future[Any]) -> None:
        """Lend the place until a future is done, then have it back at once.

        For a call that waits through asyncio's own helpers, which leave no moment for its turn.
        """
        self._lend()
        asyncio.Future.add_done_callback(future, lambda _: self._take_back())

    def _lend(self) -> None:
        self._lent += 1
        if self._lent == 1 and self.taken:
            self._venue.lend()
            self.client.changed()

    def _take_back(self) -> None:
        self._lent -= 1
        if self._lent == 0 and self.taken:
            self._venue.reclaim()

    async def _resume(self) -> None:
        """Take the place back in turn."""
        if self._lent > 1 or not self.taken or self._venue.running < self._venue.capacity:
            self._take_back()
            return
        origin = self._batch.workload
        turn = Workload(
            self,
            origin.settings,
            name=origin.name,
            venue=origin.venue,
            sink=None,
            now=origin.since,
            cost=origin.cost,
        )
        turn.put_back(Batch(turn, (0,), (None,)))
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._venue.wake(turn)
        try:
            await waiter
        except BaseException:
            if waiter.cancelled():
                self._venue.queue.remove(turn)
                self._take_back()
            raise

    def seat_again(self) -> None:
        """Its turn has come and the venue has counted it in."""
        self._venue.running -= 1  # taking the place back counts it
        if self._waiter is not None and not self._waiter.done():
            self._take_back()
            self._waiter.set_result(None)


@final
class TaskBackend:
    """The event loop as a place to run calls in."""

    def __init__(
        self, client: Client, venue: CountedVenue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._client = client
        self._venue = venue
        self._loop = loop
        self._running: dict[asyncio.Task[Any], tuple[Batch, Seat]] = {}
        self._reasons: dict[asyncio.Task[Any], Exception | None] = {}  # why it was cancelled
        self._timers: dict[asyncio.Task[Any], asyncio.TimerHandle] = {}

    def assign(self, now: float) -> None:
        """Start what is to start now."""
        for batch in self._venue.assign(now):
            function = batch.workload.function
            if type(function) is Seat:
                function.seat_again()
            else:
                self._start(batch)

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Cancel the running calls of a workload; they end with ``error`` or as stopped."""
        for task, (batch, _) in list(self._running.items()):
            if batch.workload is workload:
                self._cancel(task, error)

    def forsake(self) -> list[asyncio.Task[Any]]:
        """Take running calls that ignore their cancellation for stopped."""
        ignorant = list(self._running)
        for task in ignorant:
            task.remove_done_callback(self._done)
            batch, _ = self._leave(task)
            self._client.stopped(batch, started=True)
            self._client.settled(batch)
        return ignorant

    def _start(self, batch: Batch) -> None:
        workload = batch.workload
        function, item = workload.function, batch.items[0]
        seat = Seat(self._client, self._venue, batch)
        context: Context = workload.context.copy()
        try:
            context.run(_seat.set, seat)
            coroutine = function.call(*item) if workload.star else function.call(item)
            if not asyncio.iscoroutine(coroutine):
                coroutine = _awaiting(coroutine, function.name)
            task = self._loop.create_task(coroutine, name=workload.settings.name, context=context)
        except Exception as error:  # noqa: BLE001 - calling with wrong arguments, for one
            self._client.failed(batch, error, 0.0, None)
            self._client.settled(batch)
            return
        self._running[task] = batch, seat
        timeout = workload.settings.timeout
        if timeout is not None:
            self._timers[task] = self._loop.call_later(timeout, self._expire, task, timeout)
        task.add_done_callback(self._done)

    def _expire(self, task: asyncio.Task[Any], timeout: float) -> None:
        batch, _ = self._running[task]
        self._cancel(task, TaskTimeout(batch.workload.name, timeout))

    def _cancel(self, task: asyncio.Task[Any], error: Exception | None) -> None:
        self._reasons.setdefault(task, error)
        task.cancel()

    def _leave(self, task: asyncio.Task[Any]) -> tuple[Batch, Seat]:
        """A task has ended, or is taken to have."""
        batch, seat = self._running.pop(task)
        seat.taken = False
        timer = self._timers.pop(task, None)
        if timer is not None:
            timer.cancel()
        return batch, seat

    def _done(self, task: asyncio.Task[Any]) -> None:
        batch, _ = self._leave(task)
        seconds = monotonic() - batch.started
        client = self._client
        if task.cancelled():
            self._cancelled(task, batch, seconds)
        elif (error := task.exception()) is None:
            client.succeeded(batch, (task.result(),), seconds, None)
        else:
            client.failed(batch, harmless(error), seconds, None)
        self._reasons.pop(task, None)
        client.settled(batch)
        client.changed()

    def _cancelled(self, task: asyncio.Task[Any], batch: Batch, seconds: float) -> None:
        """It ended by cancellation: ours, as asked or for the time it took, or its own."""
        if task not in self._reasons:
            error: Exception | None = RemoteError(
                "asyncio.CancelledError", "the call cancelled itself", ""
            )
        else:
            error = self._reasons[task]
        if error is None:
            self._client.stopped(batch, started=True)
        else:
            self._client.failed(batch, error, seconds, None)


async def _awaiting(awaitable: Any, name: str) -> Any:  # noqa: ANN401 - whatever the call returns
    """Await what a plain function meant for the event loop returned."""
    if not isinstance(awaitable, Awaitable):
        message = (
            f"{name}() returned {type(awaitable).__name__}, which cannot be awaited; "
            "on='loop' is for functions that return an awaitable, on='thread' for plain ones"
        )
        raise TypeError(message)
    return await awaitable
