"""A structured scope: the block waits for every child, and a failure stops them all.

``asyncio.TaskGroup`` as the newest Python has it, on every Python, with children that may run
anywhere a pool runs calls, in a number and an order that may be bounded. Written anew and not on
top of the interpreter's own, whose inner parts differ from version to version; still a subclass,
so that code which asks for an ``asyncio.TaskGroup`` takes it.

Prior art: https://docs.python.org/3.15/library/asyncio-task.html#task-groups
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict, TypeVar, final, overload

from aiopool._backends.seats import current_seat, lent
from aiopool._core.options import check_priority
from aiopool._core.retry import check_count, check_seconds, shown
from aiopool._run.floor import Floor
from aiopool._run.guest import start_guest
from aiopool._run.settings import AGING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from contextvars import Context
    from types import TracebackType
    from typing import TypeVarTuple, Unpack

    from aiopool._core.options import TaskOptions
    from aiopool._run.handle import TaskHandle
    from aiopool._run.verbs import Verbs

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")

_BASE_ERRORS: Final = (SystemExit, KeyboardInterrupt)  # they end the program, as asyncio sees it

_SHOWS_WAITS: Final = sys.version_info >= (3, 14)
if sys.version_info >= (3, 14):  # who waits for whom can be shown
    from asyncio import future_add_to_awaited_by as _awaits
    from asyncio import future_discard_from_awaited_by as _awaits_no_more
else:
    _awaits = _awaits_no_more = print


@final
class GroupOptions(TypedDict, total=False):
    """The keyword parameters of ``TaskGroup``, for ``pool.task_group``."""

    limit: int | None
    aging: float | None
    on_error: Literal["cancel", "continue"]


@final
class TaskGroup(asyncio.TaskGroup):
    """A group of tasks that ends together: an ``asyncio.TaskGroup`` that can do more.

    ``pool``: the pool or view that runs what ``start_soon`` is given. Without one, coroutine
    functions run on the event loop, and the group opens a pool of its own, and closes it, if it is
    given anything else. ``limit``: children running at once, those of ``create_task`` too; others
    wait, in the order of their priority and age. ``aging``: seconds that make up for one step of
    priority, default the pool's, else 1. ``on_error``: with ``"cancel"`` the first failure
    cancels all that still run; with ``"continue"`` they run on. Either way leaving the block raises
    all failures in one ``ExceptionGroup``.

    Raises TypeError or ValueError naming the parameter that is out of range.
    """

    def __init__(
        self,
        pool: Verbs | None = None,
        *,
        limit: int | None = None,
        aging: float | None = None,
        on_error: Literal["cancel", "continue"] = "cancel",
    ) -> None:
        super().__init__()
        if on_error not in ("cancel", "continue"):
            message = f"on_error={shown(on_error)}: must be 'cancel' or 'continue'"
            raise ValueError(message)
        self._limit = check_count("limit", limit)
        check_seconds("aging", aging, zero=True, infinite=True)
        default = AGING if pool is None else pool._settings.aging  # noqa: SLF001 - a part of it
        self._aging = default if aging is None else aging
        self._pool = pool
        self._continues = on_error == "continue"
        self._floor: Floor | None = None  # made for the first child that needs one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parent_task: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # of create_task, not done
        self._errors: list[BaseException] = []
        self._base_error: BaseException | None = None  # KeyboardInterrupt or SystemExit
        self._entered = self._exiting = self._aborting = False
        self._cancelled_early = False  # before it was entered
        self._interrupted = False  # the parent, by this group, which is to take that back
        self._all_done: asyncio.Future[None] | None = None  # set while the block waits

    async def __aenter__(self) -> Self:
        if self._entered:
            message = f"{self!r} has already been entered"
            raise RuntimeError(message)
        loop = asyncio.get_running_loop()
        self._parent_task = asyncio.current_task(loop)
        if self._parent_task is None:
            message = f"{self!r} cannot determine the parent task"
            raise RuntimeError(message)
        self._loop = loop
        self._entered = True
        if self._cancelled_early:
            self.cancel()
        return self

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        priority: int = 0,
    ) -> asyncio.Task[T]:
        """Run a coroutine as a child of this group; its task.

        With a ``limit`` it starts when it has a place; one that is cancelled before never starts.
        ``priority``: lower comes first. Raises RuntimeError, having closed the coroutine, if the
        group was not entered, is shutting down, or has ended.
        """
        loop = self._loop
        if loop is None or self._exiting or self._aborting or type(priority) is not int:
            try:
                loop = self._open_loop()
                check_priority(priority)
            except BaseException:
                coro.close()
                raise
        if self._limit is not None:
            task = start_guest(
                self._get_floor(), coro, priority=priority, name=name, context=context
            )
        elif context is None:
            task = loop.create_task(coro, name=name)
        else:
            task = loop.create_task(coro, name=name, context=context)
        if _SHOWS_WAITS:
            _awaits(task, self._parent_task)
        # Even if it is done, having started eagerly: its failure is to interrupt the parent at its
        # next wait and not here.
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        if self._aborting and not task.done():
            task.cancel()  # the group was cancelled by what the task did eagerly
        try:
            return task
        finally:
            del task  # its exception would refer to this frame, and this frame to it

    @overload
    def start_soon(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle[T]: ...
    @overload
    def start_soon(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[T]: ...
    def start_soon(
        self, fn: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[Any]:
        """Have ``fn(*args)`` called as a child of this group; its handle.

        An ``async def`` runs on the event loop, anything else in a worker process, unless ``on``
        says otherwise. Options and errors are those of ``pool.submit``; raises RuntimeError if the
        group was not entered, is shutting down, or has ended.
        """
        self._open_loop()
        return (self._floor or self._get_floor()).start(fn, args, options)

    def cancel(self) -> None:
        """Stop the group without an error.

        Every child that is not done is cancelled, and the block, too, if it is still running;
        leaving it then raises nothing but what children failed with. Idempotent. A group that is
        cancelled before it is entered is cancelled upon entry.
        """
        if not self._entered:
            self._cancelled_early = True
        elif not self._aborting and not (self._exiting and not self._unfinished):
            self._abort()
            self._interrupt()

    async def __aexit__(  # type: ignore[override]
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        del exc_type, traceback
        try:
            return await self._leave(exc)
        finally:
            # Exceptions refer to frames, and those to this group: let it refer to none of them.
            self._parent_task = self._base_error = None
            self._errors = []
            del exc

    async def _leave(self, exc: BaseException | None) -> bool:
        """Wait for all children, then raise what is to be raised; nothing else leaves the block."""
        self._exiting = True
        ours = isinstance(exc, Exception) and self._continues
        if exc is not None and not ours:
            self._abort()
        if isinstance(exc, _BASE_ERRORS) and self._base_error is None:
            self._base_error = exc
        cancelled = isinstance(exc, asyncio.CancelledError)
        cancellation = exc if cancelled else None  # that came from outside, and is to go on
        try:
            first, last = await self._wait_for_children()
            self._raise_base_error()
            cancellation = await self._settle_interrupts(cancellation or first, last)
            if cancellation is not None and not self._errors:
                raise cancellation
            if exc is not None and not cancelled:
                self._errors.append(exc)
            if self._errors:
                self._raise_errors(exc)
            return True
        finally:
            first = last = cancellation = exc = None  # they refer to this frame

    async def _wait_for_children(self) -> tuple[BaseException | None, BaseException | None]:
        """Wait until no child is left, through any cancellation.

        Returns the cancellation that stopped the children, and the last of all.
        """
        first = last = None
        while self._unfinished or (self._floor is not None and self._floor.is_open):
            try:
                await self._children_done()
                if self._floor is not None and not self._unfinished:
                    await self._floor.close()
            except asyncio.CancelledError as error:
                last = error
                if not self._aborting:
                    first = error
                    self._abort()
        try:
            return first, last
        finally:
            first = last = None

    async def _children_done(self) -> None:
        """Wait once, with the place lent if this is a call of the pool that runs the children."""
        if not self._unfinished:
            return
        assert self._loop is not None
        done = self._all_done = self._loop.create_future()
        seat = current_seat() if self._floor is not None and self._floor.in_pool else None
        try:
            await (done if seat is None else lent(seat, done))
        finally:
            self._all_done = None

    def _raise_base_error(self) -> None:
        """KeyboardInterrupt and SystemExit go before everything; what they hide is reported."""
        if self._base_error is None:
            return
        for error in self._errors:
            if error is not self._base_error:
                self._report(
                    "a child failed while its group was being left by a BaseException", error
                )
        raise self._base_error

    async def _settle_interrupts(
        self, cancellation: BaseException | None, last: BaseException | None
    ) -> BaseException | None:
        """Take back this group's own cancellation of the parent; the one that is left to raise."""
        parent = self._parent_task
        if not self._interrupted or parent is None:
            return cancellation
        if parent.uncancel():
            return cancellation or last
        if getattr(parent, "_must_cancel", False):  # before 3.13 it would strike later
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                return error if parent.cancelling() else None
        return None

    def _raise_errors(self, exc: BaseException | None) -> None:
        parent = self._parent_task
        if parent is not None and parent.cancelling():
            # Somebody else has cancelled the parent, and this error hides it: let it strike at the
            # parent's next wait, and the count stay what it is.
            parent.uncancel()
            parent.cancel()
        try:
            if isinstance(exc, GeneratorExit) and len(self._errors) == 1:
                raise exc  # so that an async generator that is closed ends as one should
            message = "unhandled errors in a TaskGroup"
            raise BaseExceptionGroup(message, self._errors) from None
        finally:
            del exc, parent  # the task keeps its error, whose traceback keeps this frame

    # Children ----------------------------------------------------------------------------

    @property
    def _unfinished(self) -> int:
        return len(self._tasks) + (0 if self._floor is None else self._floor.unfinished)

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        """The loop, for another child; raises RuntimeError if there may be none."""
        if self._loop is None:
            message = f"{self!r} has not been entered"
        elif self._exiting and not self._unfinished:
            message = f"{self!r} is finished"
        elif self._aborting:
            message = f"{self!r} is shutting down"
        else:
            return self._loop
        raise RuntimeError(message)

    def _get_floor(self) -> Floor:
        if self._floor is None:
            assert self._loop is not None
            self._floor = Floor(
                self._loop,
                self._pool,
                limit=self._limit,
                aging=self._aging,
                halts=not self._continues,
                ended=self._on_child_ended,
            )
        return self._floor

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if _SHOWS_WAITS:
            _awaits_no_more(task, self._parent_task)
        error = None if task.cancelled() else task.exception()
        if error is not None or not self._tasks:
            self._on_child_ended(error)

    def _on_child_ended(self, error: BaseException | None) -> None:
        done = self._all_done
        if done is not None and not self._unfinished and not done.done():
            done.set_result(None)
        if error is not None:
            self._note(error)

    def _note(self, error: BaseException) -> None:
        """A child has failed: all stop, unless failures are to wait for the end."""
        self._errors.append(error)
        base = isinstance(error, _BASE_ERRORS)
        if base and self._base_error is None:
            self._base_error = error
        if self._parent_task is None or self._parent_task.done():
            self._report("a child failed when the task that entered its group had ended", error)
        elif not self._aborting and not self._interrupted and (base or not self._continues):
            self._abort()
            self._interrupt()

    def _abort(self) -> None:
        """Cancel every child, and take no more."""
        if self._aborting:
            return
        self._aborting = True
        for task in list(self._tasks):
            if not task.done():
                task.cancel()
        if self._floor is not None:
            self._floor.cancel()

    def _interrupt(self) -> None:
        """Cancel the parent, wherever in the block it is; leaving the block takes it back."""
        if self._parent_task is not None and not self._interrupted:
            self._interrupted = True
            self._parent_task.cancel()

    def _report(self, message: str, error: BaseException) -> None:
        assert self._loop is not None
        context = {"message": message, "exception": error, "task_group": self}
        self._loop.call_exception_handler(context)

    def __repr__(self) -> str:
        words = ["<TaskGroup"]
        if self._unfinished:
            words.append(f"tasks={self._unfinished}")
        if self._errors:
            words.append(f"errors={len(self._errors)}")
        if self._aborting:
            words.append("cancelling")
        elif self._entered:
            words.append("entered")
        return " ".join(words) + ">"
