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

    __slots__ = (
        "_lent",
        "_waiter",
        "asked",
        "backend",
        "batch",
        "reason",
        "taken",
        "task",
        "timer",
    )

    def __init__(self, backend: TaskBackend, batch: Batch) -> None:
        self.backend = backend
        self.batch = batch
        self.taken = True  # until the call has ended
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None  # of the call's timeout
        self.asked = False  # whether it was cancelled by the pool
        self.reason: Exception | None = None  # and why, None if somebody asked for it
        self._lent = 0  # how many waits it is lent for
        self._waiter: asyncio.Future[None] | None = None  # set while it waits for a place again

    def cancel(self, reason: Exception | None) -> None:
        """Cancel the call; it ends with ``reason``, or cancelled."""
        if not self.asked:
            self.asked, self.reason = True, reason
        if self.task is not None:
            self.task.cancel()

    def task_done(self, task: asyncio.Task[Any]) -> None:
        """Its task has ended."""
        self.backend.ended(self, task)

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
            self.backend.venue.lend()
            self.backend.client.changed()

    def _take_back(self) -> None:
        self._lent -= 1
        if self._lent == 0 and self.taken:
            self.backend.venue.reclaim()

    async def _resume(self) -> None:
        """Take the place back in turn."""
        venue = self.backend.venue
        if self._lent > 1 or not self.taken or venue.running < venue.capacity:
            self._take_back()
            return
        origin = self.batch.workload
        turn = Workload(
            self,
            origin.settings,
            name=origin.name,
            venue=origin.venue,
            sink=None,
            now=origin.since,
            cost=origin.cost,
        )
        turn.hold(None)
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        venue.wake(turn)
        try:
            await waiter
        except BaseException:
            if waiter.cancelled():
                venue.queue.remove(turn)
                self._take_back()
            raise

    def seat_again(self) -> None:
        """Its turn has come and the venue has counted it in."""
        self.backend.venue.running -= 1  # taking the place back counts it
        if self._waiter is not None and not self._waiter.done():
            self._take_back()
            self._waiter.set_result(None)


@final
class TaskBackend:
    """The event loop as a place to run calls in."""

    def __init__(
        self, client: Client, venue: CountedVenue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.client = client
        self.venue = venue
        self._loop = loop
        self._seats: dict[Workload, set[Seat]] = {}  # of the calls that run

    def assign(self, now: float) -> None:
        """Start what is to start now."""
        for batch in self.venue.assign(now):
            function = batch.workload.function
            if type(function) is Seat:
                function.seat_again()
            else:
                self._start(batch)

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Cancel the running calls of a workload; they end with ``error`` or as stopped."""
        for seat in list(self._seats.get(workload, ())):
            seat.cancel(error)

    def forsake(self) -> list[asyncio.Task[Any]]:
        """Take running calls that ignore their cancellation for stopped."""
        ignorant = [seat for seats in self._seats.values() for seat in seats]
        for seat in ignorant:
            self._leave(seat)
            self.client.stopped(seat.batch, started=True)
            self.client.settled(seat.batch)
        return [seat.task for seat in ignorant if seat.task is not None]

    def _start(self, batch: Batch) -> None:
        workload = batch.workload
        function, item = workload.function, batch.items[0]
        seat = Seat(self, batch)
        context: Context = workload.context.copy()
        try:
            context.run(_seat.set, seat)
            coroutine = function.call(*item) if workload.star else function.call(item)
            if not asyncio.iscoroutine(coroutine):
                coroutine = _awaiting(coroutine, function.name)
            task = self._loop.create_task(coroutine, name=workload.settings.name, context=context)
        except Exception as error:  # noqa: BLE001 - calling with wrong arguments, for one
            self.client.failed(batch, error, 0.0, None)
            self.client.settled(batch)
            return
        seat.task = task
        seats = self._seats.get(workload)
        if seats is None:
            self._seats[workload] = {seat}
        else:
            seats.add(seat)
        timeout = workload.settings.timeout
        if timeout is not None:
            late = TaskTimeout(workload.name, timeout)
            seat.timer = self._loop.call_later(timeout, seat.cancel, late)
        task.add_done_callback(seat.task_done)

    def _leave(self, seat: Seat) -> None:
        """A call has ended, or is taken to have."""
        seat.taken = False
        if seat.timer is not None:
            seat.timer.cancel()
        workload = seat.batch.workload
        seats = self._seats[workload]
        seats.discard(seat)
        if not seats:
            del self._seats[workload]

    def ended(self, seat: Seat, task: asyncio.Task[Any]) -> None:
        """The task of a call has ended."""
        if not seat.taken:  # forsaken before
            return
        self._leave(seat)
        seat.task = None  # its context holds the seat, and it holds the result
        batch, client = seat.batch, self.client
        seconds = monotonic() - batch.started
        if task.cancelled():
            self._cancelled(seat, seconds)
        elif (error := task.exception()) is None:
            client.succeeded(batch, (task.result(),), seconds, None)
        else:
            client.failed(batch, harmless(error), seconds, None)
        client.settled(batch)
        client.changed()

    def _cancelled(self, seat: Seat, seconds: float) -> None:
        """It ended by cancellation: as asked, or for the time it took, or by its own doing."""
        if seat.asked and seat.reason is None:
            self.client.stopped(seat.batch, started=True)
            return
        error = seat.reason
        if error is None:
            error = RemoteError("asyncio.CancelledError", "the call cancelled itself", "")
        self.client.failed(seat.batch, error, seconds, None)


async def _awaiting(awaitable: Any, name: str) -> Any:  # noqa: ANN401 - whatever the call returns
    """Await what a plain function meant for the event loop returned."""
    if not isinstance(awaitable, Awaitable):
        message = (
            f"{name}() returned {type(awaitable).__name__}, which cannot be awaited; "
            "on='loop' is for functions that return an awaitable, on='thread' for plain ones"
        )
        raise TypeError(message)
    return await awaitable
