"""The verbs users call, each a thin way into the engine: of a pool, and of its views."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from aiopool._core.retry import check_count
from aiopool._run import calls, observe
from aiopool._run.handle import TaskHandle
from aiopool._run.joint import join
from aiopool._run.lifecycle import Access
from aiopool._run.meter import Meter
from aiopool._run.sharing import Shared, share
from aiopool._run.sources import spread
from aiopool._run.stream import Flow, Stream
from aiopool._run.taskgroup import TaskGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Sequence
    from typing import TypeVarTuple, Unpack

    from aiopool._core.options import TaskOptions
    from aiopool._core.outcome import PoolStatistics
    from aiopool._run.sources import Items
    from aiopool._run.taskgroup import GroupOptions

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")
A = TypeVar("A")


class Verbs(Access):
    """What is asked of a pool, whoever it is asked through."""

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        key: Hashable = None,
        **options: Unpack[TaskOptions],
    ) -> T: ...
    @overload
    async def run(
        self,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        key: Hashable = None,
        **options: Unpack[TaskOptions],
    ) -> T: ...
    async def run(
        self,
        fn: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        key: Hashable = None,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """Call ``fn(*args)`` and wait for it; its value.

        An ``async def`` runs on the event loop, anything else in a worker process, unless ``on``
        says otherwise. Cancelling the caller stops the call. Waits while ``max_pending`` calls
        wait already. Raises what the call raised; ``TaskTimeout``, ``WorkerCrashed``,
        ``NotTransferable``, ``PoolClosed``; TypeError or ValueError for options out of range.

        With a ``key``, callers of the same function and key share one call while it runs, its
        value, or the very exception: made with the arguments and options of the first, of whose
        ``priority`` the lowest counts. It is stopped when the last caller is cancelled.
        """
        parts = self._open_parts()
        if key is not None:
            return await join(self._open_parts, fn, args, options, key)
        handle = calls.single(parts, fn, args, options, TaskHandle)
        await parts.backlog.enter(handle.name, handle.settings)
        self._open_parts()
        handle.begin()
        try:
            return await handle
        finally:
            del handle  # this frame is in the error's traceback, and the handle holds the error

    @overload
    def submit(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle[T]: ...
    @overload
    def submit(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[T]: ...
    def submit(
        self, fn: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> TaskHandle[Any]:
        """Have ``fn(*args)`` called and return its handle at once.

        The pool keeps every handle it gave out, for ``collect``; a pool that lives for weeks uses
        ``run``, ``map`` and ``stream``, which it does not keep. Raises ``PoolFull`` when
        ``max_pending`` calls wait already, ``PoolClosed``, ``NotTransferable``, and TypeError or
        ValueError for options out of range.
        """
        parts = self._open_parts()
        handle = calls.begin(parts, fn, args, options)
        parts.submitted.append(handle)
        return handle

    @overload
    async def map(
        self,
        fn: Callable[[A], Awaitable[T]],
        iterable: Iterable[A] | AsyncIterable[A],
        /,
        *,
        return_exceptions: Literal[False] = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[[A], T],
        iterable: Iterable[A] | AsyncIterable[A],
        /,
        *,
        return_exceptions: Literal[False] = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[[A], Awaitable[T]],
        iterable: Iterable[A] | AsyncIterable[A],
        /,
        *,
        return_exceptions: Literal[True],
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T | BaseException]: ...
    @overload
    async def map(
        self,
        fn: Callable[[A], T],
        iterable: Iterable[A] | AsyncIterable[A],
        /,
        *,
        return_exceptions: Literal[True],
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T | BaseException]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: Items,
        return_exceptions: Literal[False] = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Items,
        return_exceptions: Literal[False] = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: Items,
        return_exceptions: Literal[True],
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T | BaseException]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Items,
        return_exceptions: Literal[True],
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T | BaseException]: ...
    async def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Items,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> list[Any]:
        """Call ``fn`` with each item and wait for all; the results in input order.

        Several iterables are zipped as by ``zip``; they may be async. Items are pulled as workers
        have room for them, many at a time where calls are short. The first final failure stops the
        rest and is raised as it is; with ``return_exceptions`` failures stand in the list instead.
        ``limit`` bounds how many run at once. ``progress`` shows on stderr how far it is.
        """
        return await self._map(fn, iterables, return_exceptions, progress, options)

    @overload
    async def starmap(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        iterable: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        /,
        *,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def starmap(
        self,
        fn: Callable[[*Ts], T],
        iterable: Iterable[tuple[*Ts]] | AsyncIterable[tuple[*Ts]],
        /,
        *,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    async def starmap(
        self,
        fn: Callable[..., Any],
        iterable: Items,
        /,
        *,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[Any]:
        """As ``map``, with each item the tuple of one call's arguments."""
        rows = (spread(iterable),)
        return await self._map(fn, rows, return_exceptions, progress, options, star=True)

    @overload
    def stream(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: Items,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Stream[T]: ...
    @overload
    def stream(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Items,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Stream[T]: ...
    def stream(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Items,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Stream[Any]:
        """Call ``fn`` with each item and yield the results as they come, in input order or not.

        Iterables may be async and endless: at most ``buffersize`` items are pulled ahead of the
        consumer, by default as many as keep the workers busy. The stream is an async iterator and
        an async context manager; ``.outcomes()`` yields ``Outcome``s instead, failures included.
        A failure is raised in its place, after the results before it, and stops the rest; with
        ``return_exceptions`` it is a result. What an iterable raises comes after all results.
        ``progress`` shows on stderr how many calls have ended.
        """
        width = check_count("buffersize", buffersize)
        many = calls.Many(self._open_parts(), fn, iterables, options, star=False)

        async def start() -> Flow:
            self._open_parts()
            await many.enter()
            self._open_parts()
            flow = many.flow(ordered=ordered, buffersize=width)
            if progress:
                meter = Meter(many.plan.name, flow.counts)
                meter.begin()
                flow.at_end(meter.end)
            return flow

        return Stream(start, return_exceptions=return_exceptions)

    def share(self, obj: T) -> Shared[T]:
        """Place a large object in shared memory once; the handle to pass to calls in its place.

        Calls receive the object, its arrays read-only. It takes as long as three copies, may be
        called in another thread, and is freed when nobody holds the handle. Raises
        ``NotTransferable``, ``PoolClosed``; warns where memory is short and it goes by the socket.
        """
        self._check_open()
        return share(obj)

    def task_group(self, **options: Unpack[GroupOptions]) -> TaskGroup:
        """A structured scope over this pool, with the options of ``TaskGroup``."""
        self._open_parts()
        return TaskGroup(self, **options)

    @property
    def max_workers(self) -> int:
        """Worker processes it has at most."""
        return self._settings.max_workers

    def admit(self) -> None:
        """Raise what ``submit`` would raise now: ``PoolFull``, ``PoolClosed``; else do nothing.

        For a service that turns a request away rather than have ``run`` wait for room. Also raises
        ``PoolClosed`` once ``drain`` was called, when calls are still taken.
        """
        self._open_parts().backlog.admit()

    def statistics(self) -> PoolStatistics:
        """The pool at this moment, as a frozen snapshot; through a view, the whole pool."""
        return observe.statistics(self._entered_parts())

    async def _map(  # noqa: PLR0913 - what map and starmap have in common
        self,
        fn: Callable[..., Any],
        iterables: Sequence[Items],
        return_exceptions: bool,  # noqa: FBT001
        progress: bool,  # noqa: FBT001
        options: Any,  # noqa: ANN401
        *,
        star: bool = False,
    ) -> list[Any]:
        many = calls.Many(self._open_parts(), fn, iterables, options, star=star)
        await many.enter()
        self._open_parts()
        sink = many.gather(keep=return_exceptions)
        return await sink.finish(Meter(many.plan.name, sink.counts) if progress else nullcontext())
