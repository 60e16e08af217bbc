"""A running call's place, which it gives away while it waits and takes back in its turn.

A call finds its seat through a context variable, so tasks that it starts itself lend the same
one. A seat may stand on another, its ``outer``: a child of a limited group that is also a call of
a pool holds a place of both. What is lent together is taken back from the outermost inwards, which
is the order in which it was taken first, so no two of them can wait for each other.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextvars import ContextVar
from time import monotonic
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

T = TypeVar("T")

innermost: Final[ContextVar[Seat | None]] = ContextVar("aiopool_seat", default=None)
"""The seat of the call whose context this is, taken or not."""


def current_seat() -> Seat | None:
    """The seat of the call that is running here, None outside of any."""
    seat = innermost.get()
    return seat if seat is not None and seat.taken else None


def _waiting_on(
    future: asyncio.Future[Any], waiting: Generator[Any, None, Any]
) -> Generator[Any, None, Any]:
    """Wait for what a pool or a group does, with the place lent; for use in ``__await__``."""
    seat = None if future.done() else current_seat()
    del future  # this frame is in the error's traceback, and the future holds the error
    if seat is None:
        return (yield from waiting)
    return (yield from seat.wait(waiting))


@coroutine
def lent(seat: Seat, future: asyncio.Future[T]) -> Generator[Any, None, T]:
    """Wait for a future with a place lent."""
    result: T = yield from seat.wait(future.__await__())
    return result


class Lending(asyncio.Future[T]):
    """A future that whoever has a seat lends it for, however it waits for this."""

    __slots__ = ()

    def add_done_callback(
        self, fn: Callable[[Self], object], /, *, context: Context | None = None
    ) -> None:
        """As ``asyncio.Future``; what asyncio itself adds tells of a call that waits."""
        super().add_done_callback(fn, context=context)
        if not self.done() and _is_waiting(fn) and (seat := current_seat()) is not None:
            seat.lend_until(self)

    def __await__(self) -> Generator[Any, None, T]:
        return _waiting_on(self, super().__await__())

    __iter__ = __await__


async def checkpoint() -> None:
    """Give way to a waiting task that is more important than the one that calls this.

    For coroutines that run long, as calls of a pool or as children of a ``TaskGroup`` with a
    ``limit``. If a task of a lower ``priority`` number is next in line for a place, the caller's
    place is lent to it; the caller goes back into the line with its own priority, as if it had
    come now, and returns when its turn has come. Otherwise, and outside of any such task, it
    returns at once, in well under a microsecond, without letting the event loop run.
    """
    seat = innermost.get()
    while seat is not None:
        if seat.taken and seat.is_outranked():
            await seat.give_way()
        seat = seat.outer


class Seat(ABC):
    """One place, taken until the call has ended."""

    __slots__ = ("_lent", "_waiter", "outer", "taken")

    def __init__(self, outer: Seat | None) -> None:
        self.taken = True
        self.outer = outer
        self._lent = 0  # how many waits it is lent for
        self._waiter: asyncio.Future[None] | None = None  # set while it waits for a place again

    def belongs_to(self, client: object) -> bool:
        """Whether it is, or stands on, a place of this client's."""
        return self.outer is not None and self.outer.belongs_to(client)

    def wait(self, waiting: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
        """Wait with the place lent."""
        self.lend()
        try:
            result = yield from waiting
        except BaseException:
            self.take_back()  # without waiting: a cancelled call is to clean up now
            raise
        yield from self.resume().__await__()
        return result

    def lend_until(self, future: asyncio.Future[Any]) -> None:
        """Lend the place until a future is done, then have it back at once.

        For a call that waits through asyncio's own helpers, which leave no moment for its turn.
        """
        self.lend()
        asyncio.Future.add_done_callback(future, lambda _: self.take_back())

    def lend(self) -> None:
        """Give the place away, and those it stands on."""
        if self.outer is not None:
            self.outer.lend()
        self._lent += 1
        if self._lent == 1 and self.taken:
            self._give()

    def take_back(self) -> None:
        """Have it back at once, whether there is room or not."""
        if self.outer is not None:
            self.outer.take_back()
        self._take_own()

    async def resume(self) -> None:
        """Take the place back in turn."""
        if self.outer is not None:
            try:
                await self.outer.resume()
            except BaseException:
                self._take_own()
                raise
        await self._resume_own(since=None)

    def leave(self) -> None:
        """The call has ended; what a task that it left behind has lent is counted back."""
        if self._lent and self.taken:
            self._get()
        self.taken = False

    @abstractmethod
    def is_outranked(self) -> bool:
        """Whether it is not lent and somebody more important is the next to get such a place."""

    async def give_way(self) -> None:
        """Lend the place, and take it back as somebody who has come now."""
        self._lent += 1
        self._give()
        await self._resume_own(since=monotonic())

    def seat_again(self) -> None:
        """Its turn has come, and the place is counted as taken back."""
        if self._waiter is not None and not self._waiter.done():
            self._take_own()
            self._waiter.set_result(None)

    def _take_own(self) -> None:
        self._lent -= 1
        if self._lent == 0 and self.taken:
            self._get()

    async def _resume_own(self, since: float | None) -> None:
        if self._lent > 1 or not self.taken or self._has_room():
            self._take_own()
            return
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        turn = self._line_up(since)
        try:
            await waiter
        except BaseException:
            if waiter.cancelled():
                self._step_out(turn)
                self._take_own()
            raise

    @abstractmethod
    def _give(self) -> None:
        """Let somebody else have the place."""

    @abstractmethod
    def _get(self) -> None:
        """Count the place as taken again."""

    @abstractmethod
    def _has_room(self) -> bool:
        """Whether a place is free."""

    @abstractmethod
    def _line_up(self, since: float | None) -> Any:  # noqa: ANN401 - a venue's own kind of turn
        """Stand in line for a place, since then, or at the call's own age; the turn in it."""

    @abstractmethod
    def _step_out(self, turn: Any) -> None:  # noqa: ANN401
        """Leave the line."""


def _is_waiting(callback: object) -> bool:
    """Whether it is of asyncio's ``gather``, ``wait``, ``wait_for``, ``shield`` or their like."""
    callback = getattr(callback, "func", callback)
    return getattr(callback, "__module__", None) == "asyncio.tasks"
