"""The children that ``start_soon`` makes: handles that tell their group when they have ended.

A child that waits for a place is nothing but its handle: no task, and no coroutine yet. So it costs
a quarter of what a suspended task does. Two kinds: a ``LoopChild`` is a coroutine call that the
handle itself runs, a ``PoolChild`` a call of an engine, which its group lets in.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

from aiopool._backends.seats import innermost
from aiopool._backends.tasks import as_coroutine
from aiopool._core.options import check_priority
from aiopool._run.handle import TaskHandle
from aiopool._run.places import GroupSeat
from aiopool._wire.failure import harmless
from aiopool.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextvars import Context

    from aiopool._core.options import Settings
    from aiopool._core.workload import Batch
    from aiopool._run.calls import Plan
    from aiopool._run.floor import Floor

T = TypeVar("T")


_begin_future: Final = asyncio.Future.__init__


class _Beginning:
    """What a coroutine waits for that is begun before its task is: the task's first step."""

    def __await__(self) -> Generator[None, None, None]:
        return cast("Generator[None, None, None]", iter((None,)))


_BEGINNING: Final = _Beginning()


@final
class LoopChild(TaskHandle[T]):
    """A coroutine call without further conditions, in a task of its own once it has a place."""

    __slots__ = ("_priority", "lined")

    # Each slot counts where thousands wait: those that other handles have serve here, too.
    _engine: Floor  # what runs it
    _workload: Plan  # what is called
    _item: tuple[Any, ...]
    _stop: Any  # the context it is to have, later its task
    since: float = TaskHandle._ran_in_all  # type: ignore[has-type,misc] # noqa: SLF001 - its age

    def __init__(self, floor: Floor, plan: Plan, args: tuple[Any, ...]) -> None:
        # All of it here, since this is most of what a child costs before it runs.
        _begin_future(self, loop=floor.loop)
        self._message = self._pid = None
        self._requested = self.lined = False
        self._engine = floor
        self._workload = plan
        self._item = args
        self._attempts = 0
        self._ended = self._ran = 0.0
        self._stop = floor.context()
        self._priority = plan.settings.priority
        self.since = floor.age()

    @property
    def name(self) -> str:
        """The ``name`` option, else the name of the function."""
        return self._workload.name

    @property
    def settings(self) -> Settings:
        """The options of the call, resolved."""
        return self._workload.settings

    @property
    def priority(self) -> int:
        """Lower runs first. May be set while the call is queued; later it changes nothing."""
        return self._priority

    @priority.setter
    def priority(self, value: int) -> None:
        old, self._priority = self._priority, check_priority(value)
        if self.lined:
            self._engine.places.reprioritise(self, old)

    @property
    def state(self) -> str:
        """How it fares, in one word: ``queued``, ``running``, or what became of it."""
        if self.done():
            return super().state
        return "running" if self._attempts else "queued"

    @property
    def attempts(self) -> int:
        """Whether it was started, as a number."""
        return self._attempts

    @property
    def queued_for(self) -> float:
        """Seconds until it was started."""
        return (monotonic() if self.lined else self._ended) - self.since

    def enter(self, *, eager: bool = False) -> None:
        """It has a place: start it; ``eager``: and let it take its first step here and now."""
        floor = self._engine
        floor.running.add(self)
        context: Context = self._stop.copy()
        self._stop = None
        self._attempts = 1
        self._ended = monotonic()
        coroutine = self._run(held=not eager)
        try:
            if eager:
                task = asyncio.Task(
                    coroutine,
                    loop=floor.loop,
                    name=self._workload.name,
                    context=context,
                    eager_start=True,  # type: ignore[call-arg] # not on 3.11, nor asked for there
                )
            else:
                coroutine.send(None)  # into its ``try``: it may be cancelled before its first step
                task = floor.task(coroutine, name=self._workload.name, context=context)
        except Exception as error:  # noqa: BLE001 - of a task factory
            self._over(error)
            return
        if not self.done():
            self._stop = task
            if self._requested:
                task.cancel()  # by what it did itself, starting eagerly
        del self, task, context  # the error of an eager first step refers to this frame

    async def _run(self, *, held: bool) -> T:
        """Make the call, and see to what follows: a callback of the task would come a turn later.

        ``held``: whether it is begun before its task is.
        """
        seat: GroupSeat | None = None
        try:
            if held:
                await _BEGINNING
            if self._engine.limited:
                seat = GroupSeat(self._engine, self, innermost.get())
                innermost.set(seat)
            function = self._workload.function
            value: T = await as_coroutine(function, function.call(*self._item))
        except BaseException:
            if not self.done():  # else it has no task
                self._task().add_done_callback(self._failed)
            del self  # the error refers to this frame
            raise
        finally:
            if seat is not None:
                seat.leave()
            seat = None
        self._stop = None
        self._ran = monotonic() - self._ended
        self.conclude(value)
        self._engine.over_and_left(self)
        return value

    def _task(self) -> asyncio.Task[T]:
        """The task that it runs in; in an eager first step it has not been told yet."""
        return cast("asyncio.Task[T]", self._stop or asyncio.current_task())

    def _ask(self) -> None:
        if self.lined:
            self._engine.places.remove(self)
            self._ended = monotonic()
            self.conclude_stopped()
            self._engine.over(self, None)
        elif isinstance(self._stop, asyncio.Task):
            self._stop.cancel()

    def _failed(self, task: asyncio.Task[T]) -> None:
        self._stop = None
        self._ran = monotonic() - self._ended
        if not task.cancelled():
            self._over(task.exception())
        elif self._requested:
            self.conclude_stopped()
            self._over(None)
        else:
            self._over(RemoteError("asyncio.CancelledError", "the call cancelled itself", ""))

    def _over(self, error: BaseException | None) -> None:
        if error is not None:
            self.fail(harmless(error))
            if not self.cancelled():
                self.exception()  # it is the group's to raise
        self._engine.over(self, error)
        self._engine.left()


@final
class PoolChild(TaskHandle[T]):
    """A call of an engine, handed to it as soon as it has a place."""

    __slots__ = ("_batch", "_floor", "lined", "seat")

    _floor: Floor

    def join(self, floor: Floor, *, counted: bool) -> None:
        """Become a child; ``counted``: with a seat, because places are counted or lent."""
        workload = self._workload
        self._floor = floor
        if floor.limited:
            workload.since = workload.turn = floor.age()
        self._batch = workload.take(1)
        self.lined = False
        self.seat: GroupSeat | None = None
        if counted:
            workload.door = self
        self._engine.add(workload)  # so that it is stopped with all the others, and in time
        self._engine.venues[workload.venue].drop(workload)  # nothing of it is to start yet

    @property
    def since(self) -> float:
        """When it was submitted."""
        return self._workload.since

    @property
    def priority(self) -> int:
        """Lower runs first. May be set while the call is queued; later it changes nothing."""
        return super().priority

    @priority.setter
    def priority(self, value: int) -> None:
        old = self._workload.priority
        TaskHandle.priority.fset(self, value)  # type: ignore[attr-defined]
        if self.lined:
            self._floor.places.reprioritise(self, old)

    @property
    def state(self) -> str:
        """How it fares, in one word, as of any handle."""
        return "queued" if self.lined else super().state

    def enter(self) -> None:
        """It has a place: let the call, or its next attempt, into the engine."""
        workload = self._workload
        self._floor.running.add(self)
        if workload.door is not None:
            context = workload.context if self._floor.is_own else None
            outer = None if context is None else context.get(innermost)
            self.seat = GroupSeat(self._floor, self, outer)
        batch, self._batch = self._batch, None
        if batch is not None:
            workload.put_back(batch)
            self._engine.more(workload)
        for resting in list(workload.resting or ()):
            self._engine.try_again(resting)

    def lets_in(self, _batch: Batch) -> bool:
        """Whether an attempt may be made now; if not, it stands in line for a place."""
        if self.seat is None and not self.lined:
            self._floor.line_up(self)
        return self.seat is not None

    def values(self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None) -> None:
        """The call returned."""
        super().values(batch, values, seconds, pid)
        self._over(None)

    def error(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """The call failed for good."""
        super().error(batch, error, seconds, pid)
        if self.cancelled():
            self._over(None)
        else:
            self.exception()  # it is the group's to raise
            self._over(error)

    def attempted(self, batch: Batch, seconds: float, pid: int | None) -> None:
        """An attempt failed and another is to follow: the place is for others meanwhile."""
        super().attempted(batch, seconds, pid)
        if self._workload.door is not None:
            self._leave()

    def stopped(self, batch: Batch) -> None:
        """The call was stopped, or will not start."""
        super().stopped(batch)
        self._over(None)

    def ended(self) -> None:
        """The engine takes no more of it: if it has not been let in, this is its end."""
        batch, self._batch = self._batch, None
        if batch is not None:
            self._engine.stopped(batch, started=False)

    def _leave(self) -> None:
        seat, self.seat = self.seat, None
        if self.lined:
            self._floor.places.remove(self)
        elif seat is not None or self._workload.door is None:
            if seat is not None:
                seat.leave()
            self._floor.left()

    def _over(self, error: BaseException | None) -> None:
        self._floor.over(self, error)
        self._leave()
