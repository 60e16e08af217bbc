"""The pool: the verbs users call, each a thin way into the engine."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, final, overload

from aiopool._core.retry import check_count, check_seconds
from aiopool._run import calls, observe
from aiopool._run.setup import Machinery, PoolSettings, check_settings
from aiopool._run.sources import check_iterables, spread
from aiopool._run.stream import Flow, Stream
from aiopool._run.taskgroup import TaskGroup
from aiopool.errors import PoolClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext
    from types import TracebackType
    from typing import TypeVarTuple, Unpack

    from aiopool._core.options import TaskOptions
    from aiopool._core.outcome import Outcome, PoolStatistics
    from aiopool._core.retry import Retry
    from aiopool._run.handle import TaskHandle
    from aiopool._run.news import Observer
    from aiopool._run.sources import Items

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")
A = TypeVar("A")


@final
class Pool:
    """Runs coroutines on the event loop and plain callables in worker processes.

    Use it in ``async with``. It belongs to the event loop that entered it. Leaving the block waits
    for all that was submitted; leaving it by an exception or a cancellation stops everything
    within ``grace_period`` and a second.

    ``max_workers``: worker processes, default the CPUs this process may use; they start when there
    is work for them. ``limit``: coroutine calls running at once. ``max_pending``: calls that may
    wait; beyond it ``run``, ``map`` and ``stream`` wait for room and ``submit`` raises
    ``PoolFull``. ``retry`` and ``timeout`` (seconds) are defaults for every call.
    ``grace_period``: seconds a stopped call has for its clean-up before its process is killed.
    ``aging``: seconds of waiting that make up for one step of priority; ``math.inf`` for strict
    priority. ``backend``: None for worker processes, ``"inline"`` to run plain callables at once
    in this thread, or any ``concurrent.futures.Executor``. ``mp_context``: a multiprocessing
    context or start method, default forkserver where there is one, else spawn. ``initializer``
    runs in each new worker with ``initargs``. A worker is replaced after
    ``max_tasks_per_worker`` calls, or once it holds more than ``max_worker_memory`` bytes between
    calls. ``observers`` are called with the events of ``aiopool.events``.

    Raises TypeError or ValueError naming the parameter that is out of range.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each thing a pool lets be chosen
        self,
        max_workers: int | None = None,
        *,
        limit: int = 100,
        max_pending: int | None = None,
        retry: int | Retry | None = None,
        timeout: float | None = None,
        grace_period: float = 1.0,
        aging: float = 1.0,
        backend: Executor | str | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_worker: int | None = None,
        max_worker_memory: int | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._parts: Machinery | None = None
        self._submitted: list[TaskHandle[Any]] = []
        self._collecting = self._closed = False
        self._settings: PoolSettings = check_settings(
            max_workers=max_workers,
            limit=limit,
            max_pending=max_pending,
            retry=retry,
            timeout=timeout,
            grace_period=grace_period,
            aging=aging,
            backend=backend,
            mp_context=mp_context,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_worker=max_tasks_per_worker,
            max_worker_memory=max_worker_memory,
            observers=observers,
        )

    async def __aenter__(self) -> Self:
        if self._parts is not None or self._closed:
            message = "this pool was opened before; make a new one for every 'async with'"
            raise PoolClosed(message)
        self._parts = Machinery(self._settings, asyncio.get_running_loop())
        await self._parts.closer.arm()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(drain=exc_type is None)

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        **options: Unpack[TaskOptions],
    ) -> T: ...
    @overload
    async def run(
        self, fn: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[TaskOptions]
    ) -> T: ...
    async def run(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call ``fn(*args)`` and wait for it; its value.

        An ``async def`` runs on the event loop, anything else in a worker process, unless ``on``
        says otherwise. Cancelling the caller stops the call. Waits while ``max_pending`` calls
        wait already. Raises what the call raised; ``TaskTimeout``, ``WorkerCrashed``,
        ``NotTransferable``, ``PoolClosed``; TypeError or ValueError for options out of range.
        """
        parts = self._open_parts()
        handle = calls.single(parts, fn, args, options)
        await parts.backlog.enter(handle.priority)
        self._open_parts()
        handle.begin()
        return await handle

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
    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> TaskHandle[Any]:
        """Have ``fn(*args)`` called and return its handle at once.

        The pool keeps every handle it gave out, for ``collect``; a pool that lives for weeks uses
        ``run``, ``map`` and ``stream``, which it does not keep. Raises ``PoolFull`` when
        ``max_pending`` calls wait already, ``PoolClosed``, ``NotTransferable``, and TypeError or
        ValueError for options out of range.
        """
        handle = self._start(fn, args, options)
        self._submitted.append(handle)
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
        ``limit`` bounds how many of these calls run at once. ``progress`` shows a live line.
        """
        return await self._map(fn, iterables, return_exceptions, progress, options)

    async def starmap(
        self,
        fn: Callable[..., Any],
        iterable: Items,
        /,
        *,
        return_exceptions: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> list[Any]:
        """As ``map``, with each item the tuple of one call's arguments."""
        rows = (spread(iterable),)
        return await self._map(fn, rows, return_exceptions, progress, options, star=True)

    def stream(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Items,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Stream[Any]:
        """Call ``fn`` with each item and yield the results as they come, in input order or not.

        Iterables may be async and endless: at most ``buffersize`` items are pulled ahead of the
        consumer, by default as many as keep the workers busy. The stream is an async iterator and
        an async context manager; ``.outcomes()`` yields ``Outcome``s instead, failures included.
        A failure is raised in its place, after the results before it, and stops the rest; with
        ``return_exceptions`` it is a result. What an iterable raises comes after all results.
        """
        parts = self._open_parts()
        width = check_count("buffersize", buffersize)
        check_iterables(iterables)
        found = calls.plan(parts, fn, options)

        async def start() -> Flow:
            await parts.backlog.enter(found.settings.priority)
            self._open_parts()
            return calls.flow(parts, found, iterables, ordered=ordered, buffersize=width)

        return Stream(start, return_exceptions=return_exceptions)

    def task_group(self) -> TaskGroup:
        """A structured scope over this pool: ``async with pool.task_group() as group``."""
        self._open_parts()
        return TaskGroup(self._start)

    async def collect(self) -> list[Outcome[Any]]:
        """Take no more work, wait for all that was submitted, and return how each call ended.

        In the order of submission; calls made through ``run``, ``map`` and ``stream`` are not
        among them. Called again it returns the same.
        """
        parts = self._entered_parts()
        self._collecting = True
        await observe.all_done(parts.engine, self._submitted)
        return [handle.outcome(index) for index, handle in enumerate(self._submitted)]

    def statistics(self) -> PoolStatistics:
        """The pool at this moment, as a frozen snapshot."""
        return observe.statistics(self._entered_parts())

    async def aclose(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more work, finish or cancel what there is, and let go of every resource.

        With ``drain`` what was submitted is finished, for at most ``timeout`` seconds; then, or
        without, it is stopped. Idempotent; safe to call from several tasks, and a caller that is
        cancelled meanwhile cuts draining short and waits until all is gone.
        """
        check_seconds("timeout", timeout, zero=True)
        self._closed = True
        if self._parts is None or self._parts.closer.done:
            return
        parts = self._same_loop(self._parts)
        if parts.inside:
            message = "a call of this pool cannot close it: closing waits for the call to end"
            raise RuntimeError(message)
        await parts.closer.close(drain=drain, timeout=timeout)

    def _start(
        self, fn: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> TaskHandle[Any]:
        parts = self._open_parts()
        handle = calls.single(parts, fn, args, options)
        parts.backlog.claim()
        handle.begin()
        return handle

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
        parts = self._open_parts()
        check_iterables(iterables)
        found = calls.plan(parts, fn, options)
        await parts.backlog.enter(found.settings.priority)
        self._open_parts()
        sink = calls.gathering(parts, found, iterables, star=star, keep=return_exceptions)
        if progress:
            with observe.shown(sink, found.function.name):
                return await sink.finish()
        return await sink.finish()

    def _entered_parts(self) -> Machinery:
        if self._parts is None:
            message = "this pool is not open: use it in 'async with Pool() as pool'"
            raise PoolClosed(message)
        return self._same_loop(self._parts)

    def _open_parts(self) -> Machinery:
        parts = self._entered_parts()
        if self._closed or self._collecting or parts.closer.begun:
            message = "this pool is closing or closed and takes no more work"
            raise PoolClosed(message)
        return parts

    def _same_loop(self, parts: Machinery) -> Machinery:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None  # type: ignore[assignment]
        if loop is not parts.engine.loop:
            message = (
                "this pool belongs to another event loop or thread; use it in the loop that "
                "entered it, for example through asyncio.run_coroutine_threadsafe"
            )
            raise RuntimeError(message)
        return parts

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None and not parts.closer.begun:
            warnings.warn(f"unclosed pool {self!r}", ResourceWarning, source=self, stacklevel=1)
            parts.closer.forsake()

    def __repr__(self) -> str:
        if self._parts is None:
            return f"<Pool not open, max_workers={self._settings.max_workers}>"
        state = "closed" if self._parts.closer.done else "closing" if self._closed else "open"
        return f"<Pool {state}, {observe.summary(self._parts)}>"
