"""Coroutine functions on the event loop: each call an ``asyncio.Task`` of its own.

The next task is started from the done-callback of the one that made room, so a waiting call is
no task yet and costs nothing but its place in the input.

A call that waits for its own pool, or for another one, gives its place away meanwhile and takes
it back in its turn, by its original priority and age: the seat a task sits on knows both moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic
from types import CoroutineType
from typing import TYPE_CHECKING, Any, final

from aiopool._backends.seats import Seat, innermost
from aiopool._core.workload import Batch, Workload
from aiopool._wire.failure import harmless
from aiopool.errors import RemoteError, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

    from aiopool._backends.base import Client, Function
    from aiopool._core.scheduler import CountedVenue


@final
class TaskSeat(Seat):
    """A running call's place on the event loop."""

    __slots__ = ("asked", "backend", "batch", "reason", "task", "timer")

    def __init__(self, backend: TaskBackend, batch: Batch) -> None:
        door = batch.workload.door
        super().__init__(None if door is None else door.seat)
        self.backend = backend
        self.batch = batch
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None  # of the call's timeout
        self.asked = False  # whether it was cancelled by the pool
        self.reason: Exception | None = None  # and why, None if somebody asked for it

    def belongs_to(self, client: object) -> bool:
        """Whether the call is, or is part of, one of this client's."""
        return client is self.backend.client or super().belongs_to(client)

    def cancel(self, reason: Exception | None) -> None:
        """Cancel the call; it ends with ``reason``, or cancelled."""
        if not self.asked:
            self.asked, self.reason = True, reason
        if self.task is not None:
            self.task.cancel()

    def task_done(self, task: asyncio.Task[Any]) -> None:
        """Its task has ended."""
        self.backend.ended(self, task)

    def _give(self) -> None:
        self.backend.venue.lend(self.batch.workload)
        self.backend.client.changed()

    def _get(self) -> None:
        self.backend.venue.reclaim(self.batch.workload)

    def _has_room(self) -> bool:
        return self.backend.venue.has_place(self.batch.workload)

    def is_outranked(self) -> bool:
        """Whether it is not lent and a call more important than this one is next."""
        head = None if self._lent else self.backend.venue.queue.peek()
        return head is not None and head.priority < self.batch.workload.priority

    def _line_up(self, since: float | None) -> Workload:
        origin = self.batch.workload
        turn = Workload(
            self,
            origin.settings,
            name=origin.name,
            venue=origin.venue,
            sink=None,
            now=origin.since if since is None else since,
            cost=origin.cost,
        )
        turn.priority = origin.priority
        turn.hold(None)
        self.backend.venue.wake(turn)
        return turn

    def _step_out(self, turn: Workload) -> None:
        self.backend.venue.drop(turn)

    def seat_again(self) -> None:
        """Its turn has come and the venue has counted it in."""
        self.backend.venue.unseat(self.batch.workload)  # taking the place back counts it
        super().seat_again()


@final
class TaskBackend:
    """The event loop as a place to run calls in."""

    def __init__(
        self, client: Client, venue: CountedVenue, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.client = client
        self.venue = venue
        self._loop = loop
        self._seats: dict[Workload, set[TaskSeat]] = {}  # of the calls that run

    def assign(self, now: float) -> None:
        """Start what is to start now."""
        for batch in self.venue.assign(now):
            function = batch.workload.function
            if type(function) is TaskSeat:
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
        seat = TaskSeat(self, batch)
        context: Context = workload.context.copy()
        try:
            context.run(innermost.set, seat)
            called = function.call(*item) if workload.star else function.call(item)
            coroutine = as_coroutine(function, called)
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

    def _leave(self, seat: TaskSeat) -> None:
        """A call has ended, or is taken to have."""
        seat.leave()
        if seat.timer is not None:
            seat.timer.cancel()
        workload = seat.batch.workload
        seats = self._seats[workload]
        seats.discard(seat)
        if not seats:
            del self._seats[workload]

    def ended(self, seat: TaskSeat, task: asyncio.Task[Any]) -> None:
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

    def _cancelled(self, seat: TaskSeat, seconds: float) -> None:
        """It ended by cancellation: as asked, or for the time it took, or by its own doing."""
        if seat.asked and seat.reason is None:
            self.client.stopped(seat.batch, started=True)
            return
        error = seat.reason
        if error is None:
            error = RemoteError("asyncio.CancelledError", "the call cancelled itself", "")
        self.client.failed(seat.batch, error, seconds, None)


def as_coroutine(function: Function, called: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401
    """What a call on the event loop returned, as something a task can run."""
    known = type(called) is CoroutineType or asyncio.iscoroutine(called)
    return called if known else _awaiting(called, function.name)


async def _awaiting(awaitable: Any, name: str) -> Any:  # noqa: ANN401 - whatever the call returns
    """Await what a plain function meant for the event loop returned."""
    if not isinstance(awaitable, Awaitable):
        message = (
            f"{name}() returned {type(awaitable).__name__}, which cannot be awaited; "
            "on='loop' is for functions that return an awaitable, on='thread' for plain ones"
        )
        raise TypeError(message)
    return await awaitable
