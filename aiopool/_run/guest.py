"""Coroutines that ``create_task`` starts in a group with a ``limit``: real tasks, held back.

The task runs a ``Guest``, a coroutine that first waits for its place and then hands every step
on to the coroutine inside; one that never had a place is closed, which asyncio takes for handled.
That is an object and not a coroutine function, which could not close what it was given if it is
itself cancelled before its first step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from aiopool._backends.seats import Lending, current_seat, innermost
from aiopool._run.places import GroupSeat

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from aiopool._backends.seats import Seat
    from aiopool._run.floor import Floor

T = TypeVar("T")


@final
class GroupTask(Lending[T], asyncio.Task[T]):
    """A task held back by its group: a sibling that waits for it lends it its place."""


def start_guest(
    floor: Floor,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    priority: int,
    name: str | None,
    context: Context | None,
) -> asyncio.Task[T]:
    """Make the task, and stand it in line.

    A task factory is honoured; tasks of a factory other than asyncio's own do not lend, so a
    sibling that waits for one keeps its place.
    """
    guest = Guest(floor, coro, priority)
    loop = floor.loop
    factory = loop.get_task_factory()
    eager = factory is not None and factory is getattr(asyncio, "eager_task_factory", None)
    kind: Any = GroupTask if factory is None or eager else loop.create_task
    more: dict[str, Any] = {"eager_start": True} if eager else {}
    if context is not None:
        more["context"] = context
    if kind is GroupTask:
        more["loop"] = loop
    try:
        task: asyncio.Task[T] = kind(guest, name=name, **more)
    except BaseException:
        guest.close()
        raise
    return task


@final
class Guest(Coroutine[Any, Any, T]):
    """A coroutine that waits for its place, then is the one it was given."""

    __slots__ = (
        "_coro",
        "_floor",
        "_outer",
        "_seat",
        "_wait",
        "_waiter",
        "lined",
        "priority",
        "since",
    )

    def __init__(
        self, floor: Floor, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], priority: int
    ) -> None:
        self._coro: Any = coro
        self._floor = floor
        self._outer: Seat | None = current_seat()
        self._seat: GroupSeat | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wait: Generator[Any, None, None] | None = None  # while the task waits
        self.priority = priority
        self.since = floor.age()
        self.lined = False
        floor.line_up(self)

    def enter(self) -> None:
        """It has a place."""
        self._seat = GroupSeat(self._floor, self, self._outer)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def send(self, value: Any, /) -> Any:  # noqa: ANN401 - Coroutine's signature
        """Take a step."""
        if self._seat is None:
            self._floor.assign()  # a task that starts eagerly may have its place at once
        if self._wait is None and self._seat is None:
            self._waiter = self._floor.loop.create_future()
            self._wait = self._waiter.__await__()
            return self._wait.send(None)
        self._wait = None
        return self._step(self._coro.send, value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any:  # noqa: ANN401 - as above
        """Raise where it waits; a coroutine that was not begun is closed instead."""
        if val is not None or tb is not None:
            return self._step(self._coro.throw, typ, val, tb)
        return self._step(self._coro.throw, typ)

    def __await__(self) -> Generator[Any, Any, T]:
        # It has what an awaiting task needs.
        return cast("Generator[Any, Any, T]", self)

    def __next__(self) -> Any:  # noqa: ANN401 - as above
        """Take a step: tasks ask for the next when they have nothing to send."""
        return self.send(None)

    def close(self) -> None:
        """End it."""
        try:
            self._coro.close()
        finally:
            self._leave(self._floor.left)

    def _step(self, act: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - as above
        token = innermost.set(self._seat or self._outer)
        try:
            return act(*args)
        except (StopIteration, asyncio.CancelledError):
            self._leave(self._floor.left)
            raise
        except BaseException:
            # Nobody is to start before the group has heard of it, from a callback of the task.
            later = self._floor.loop.call_soon
            self._leave(partial(later, later, self._floor.left))
            raise
        finally:
            innermost.reset(token)

    def _leave(self, let_go: Callable[[], object]) -> None:
        seat, self._seat = self._seat, None
        if self.lined:
            self._floor.places.remove(self)
        elif seat is not None:
            seat.leave()
            let_go()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - such as cr_frame
        """What asyncio shows of a task is shown of the coroutine inside."""
        return getattr(self._coro, name)
