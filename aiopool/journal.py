"""Runs that survive a crash: what has ended is remembered in a file, and not executed again.

::

    async with Journal("run.db") as journal, aiopool.Pool() as pool:
        pages = await journal.map(pool, fetch, urls, return_exceptions=True)

Killed at any moment and started again, that gives what it would have given: calls that had ended
are read from the file, the others are executed. A call is known by the name of its function, a
version and its arguments, or what ``key=`` makes of them. **Reported** is what was returned by
``map`` or yielded by a stream; it had been committed before, and is never executed again. A call
that had ended within the last milliseconds before a crash and was not reported may be.

The file is SQLite's and belongs to one run at a time: ``JournalLocked`` is raised otherwise. It
holds pickles, so open only what you trust.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, final, overload

from aiopool import restore
from aiopool._journal.identity import task_of
from aiopool._journal.run import Plan, Run, Thread, rows_of, settled
from aiopool._journal.store import Store
from aiopool._journal.stream import JournalStream
from aiopool.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        Awaitable,
        Callable,
        Iterable,
        Sequence,
    )
    from types import TracebackType
    from typing import TypeAlias, Unpack

    from aiopool import Outcome, Pool, TaskOptions
    from aiopool._journal.identity import Key
    from aiopool._journal.store import Failure, Row

    Items: TypeAlias = Iterable[Any] | AsyncIterable[Any]

__all__ = ["FailedItem", "Journal", "JournalStream"]

T = TypeVar("T")

_MAP_WIDTH = 4096
_STREAM_WIDTH = 256


@final
@dataclass(frozen=True, slots=True, eq=False)
class FailedItem:
    """A call that failed for good, as the journal remembers it."""

    task: str
    """The name of its function, or the ``name`` of the run."""

    version: str
    """The version of the function, as a text."""

    key: Key
    """What it is stored under: what ``key=`` gave, or a digest."""

    args: tuple[Any, ...] | None
    """What the function was called with; None if that could not be kept, or read back."""

    error: BaseException
    """What it failed with; ``str`` of it is the message."""

    attempts: int
    """Attempts made, in all runs."""

    at: datetime
    """When it failed last, in UTC."""


@final
class Journal:
    """Remembers which calls have ended, and how, in the file ``path``.

    An async context manager: entering opens the file, creates it if need be and locks it, leaving
    stops the runs that are under way and closes it. ``on_full`` says what becomes of a run when
    nothing more can be written: it is stopped by ``JournalFull``, or goes on without the journal,
    which is logged once and counted in ``unsaved``. ``durable`` has every commit synced to the
    disk, so that what was reported survives a loss of power too. Raises ``JournalLocked`` if
    another run has the file, ``JournalError`` if it is none that this can use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_full: Literal["stop", "continue"] = "stop",
        durable: bool = False,
    ) -> None:
        if on_full not in {"stop", "continue"}:
            message = f"on_full={on_full!r}: it is 'stop' or 'continue'"
            raise ValueError(message)
        self._store = Store(os.fsdecode(path), durable=durable, on_full=on_full)
        self._thread: Thread | None = None
        self._runs: dict[int, Run] = {}  # by task
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a journal can be entered once; make another of the same path")
        self._thread = thread = Thread(self._store)
        opening = thread.do(self._store.open)
        try:
            await settled(opening)
        except BaseException:
            if opening.exception() is None:
                await thread.close()
            else:
                thread.abandon()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the runs that are under way, commit what has ended, and close the file."""
        if self._thread is None:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(self._thread))
        await settled(self._closing)

    @property
    def unsaved(self) -> int:
        """Calls that ended and are not in the file, because nothing more could be written."""
        return self._store.unsaved

    @overload
    async def map(
        self,
        pool: Pool,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        pool: Pool,
        fn: Callable[..., T],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[T]: ...
    async def map(  # noqa: PLR0913 - most of them by keyword
        self,
        pool: Pool,
        fn: Callable[..., Any],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> list[Any]:
        """As ``pool.map``, without the calls that have ended in an earlier run.

        ``key(*args)`` gives the str, int or bytes a call is known by, otherwise its arguments do.
        ``version`` is whatever tells this function from an earlier one of its name: by default its
        ``__version__``, or, without ``key``, a digest of its code. A call whose key is met again
        is executed once. A call that has failed is over, too, unless ``rerun_failed``.
        """
        plan = await self._plan(fn, iterables, options, key, version, rerun_failed=rerun_failed)
        return await self._gathered(pool, plan, keep=return_exceptions)

    @overload
    def stream(
        self,
        pool: Pool,
        fn: Callable[..., Awaitable[T]],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> JournalStream[T]: ...
    @overload
    def stream(
        self,
        pool: Pool,
        fn: Callable[..., T],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> JournalStream[T]: ...
    def stream(  # noqa: PLR0913 - most of them by keyword
        self,
        pool: Pool,
        fn: Callable[..., Any],
        /,
        *iterables: Items,
        key: Callable[..., Key] | None = None,
        version: str | int | None = None,
        rerun_failed: bool = False,
        ordered: bool = True,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        **options: Unpack[TaskOptions],
    ) -> JournalStream[Any]:
        """As ``pool.stream``, without the calls that have ended in an earlier run.

        At most ``buffersize`` items are held that the consumer has not taken, by default 256, or
        twice the ``limit`` if that is more. The rest is as in ``map``.
        """

        async def start() -> Run:
            width, limit = buffersize, options.get("limit")
            if width is None:
                width = max(_STREAM_WIDTH, 2 * limit if isinstance(limit, int) else 0)
            plan = await self._plan(fn, iterables, options, key, version, rerun_failed=rerun_failed)
            return self._run(pool, plan._replace(ordered=ordered, width=width))

        return JournalStream(start, self._close_run, return_exceptions=return_exceptions)

    async def failed(self) -> list[FailedItem]:
        """The calls that failed for good and were not executed again since, oldest first."""
        return await self._do(lambda: [_revived(each) for each in self._store.failures()])  # type: ignore[no-any-return]

    async def retry_failed(
        self, pool: Pool, fn: Callable[..., Any] | None = None, **options: Unpack[TaskOptions]
    ) -> list[Outcome[Any]]:
        """Execute again what ``failed`` lists and remember how it ends; the outcomes, in its order.

        Without ``fn`` that is everything, each call by the function that was stored. With ``fn``,
        which may be a mended one, those calls whose function has its name, or that of ``name=``.
        Raises ``JournalError`` for a function or arguments that cannot be read back.
        """
        name = options.get("name") or (None if fn is None else task_of(fn))
        groups = await self._do(self._retryable, fn, name)
        outcomes: dict[int, Outcome[Any]] = {}
        for (task, arity), (stored, calls) in groups.items():
            rows = _again([row for _, row in calls])
            plan = Plan(stored, task, arity, rows, False, _MAP_WIDTH, inf, options)  # noqa: FBT003
            run = self._run(pool, plan)
            try:
                while await run.wait():
                    outcome = run.take()
                    outcomes[calls[outcome.index][0]] = outcome
            finally:
                await self._close_run(run)
        return [outcomes[place] for place in sorted(outcomes)]

    async def _plan(  # noqa: PLR0913 - what its two callers are given
        self,
        fn: Callable[..., Any],
        iterables: Sequence[Items],
        options: TaskOptions,
        key: Callable[..., Key] | None,
        version: str | int | None,
        *,
        rerun_failed: bool,
    ) -> Plan:
        name, rows = options.get("name"), rows_of(iterables, key)
        task = await self._do(self._store.task, fn, name, version, key is not None)
        since = time.time() if rerun_failed else -inf
        return Plan(fn, task, len(iterables), rows, False, _MAP_WIDTH, since, options)  # noqa: FBT003

    def _run(self, pool: Pool, plan: Plan) -> Run:
        if plan.task in self._runs:
            reason = "this function is being run with it already; wait for that, or give it a name="
            raise JournalError(self._store.path, reason)
        run = self._runs[plan.task] = Run(self._opened(), pool, plan)
        return run

    async def _close_run(self, run: Run) -> None:
        try:
            await run.close()
        finally:
            if self._runs.get(run.task) is run:
                del self._runs[run.task]

    async def _gathered(self, pool: Pool, plan: Plan, *, keep: bool) -> list[Any]:
        results: list[Any] = []
        outcome: Outcome[Any] | None = None
        run = self._run(pool, plan)
        try:
            while await run.wait():
                outcome = run.take()
                if not keep:
                    outcome.unwrap()
                results.extend([None] * (outcome.index + 1 - len(results)))
                results[outcome.index] = outcome.value if outcome.error is None else outcome.error
        finally:
            outcome = None  # which may hold an error, which may hold this frame
            await self._close_run(run)
        return results

    def _retryable(
        self, fn: Callable[..., Any] | None, name: str | None
    ) -> dict[tuple[int, int], tuple[Callable[..., Any], list[tuple[int, Row]]]]:
        """What failed, by task and number of arguments: the function, and places and calls."""
        groups: dict[tuple[int, int], tuple[Callable[..., Any], list[tuple[int, Row]]]] = {}
        functions: dict[int, Callable[..., Any]] = {}
        chosen = [each for each in self._store.failures() if name is None or each.name == name]
        for place, each in enumerate(chosen):
            if each.task not in functions:
                functions[each.task] = self._function(each) if fn is None else fn
            args = _args(each)
            if args is None:
                reason = (
                    f"the arguments of {each.key!r} could not be kept, or be read back; pass them "
                    "again with map(..., rerun_failed=True)"
                )
                raise JournalError(self._store.path, reason)
            group = groups.setdefault((each.task, len(args)), (functions[each.task], []))
            group[1].append((place, (each.key, args)))
        return groups

    def _function(self, failure: Failure) -> Callable[..., Any]:
        try:
            if failure.fn is not None:
                return restore(failure.fn)  # type: ignore[no-any-return]
            why = "it could not be pickled"
        except Exception as error:  # noqa: BLE001 - whatever unpickling raises
            why = f"{type(error).__name__}: {error}"
        reason = f"{failure.name} cannot be read back ({why}); pass it: retry_failed(pool, fn)"
        raise JournalError(self._store.path, reason)

    def _opened(self) -> Thread:
        if self._thread is None or self._closing is not None:
            state = "closed" if self._closing is not None else "not open"
            reason = f"it is {state}; use it inside 'async with Journal(...)'"
            raise JournalError(self._store.path, reason)
        return self._thread

    async def _do(self, method: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - what it gives
        return await self._opened().do(method, *args)

    async def _close(self, thread: Thread) -> None:
        for run in list(self._runs.values()):
            run.fail(JournalError(self._store.path, "it was closed while this was running"))
            await self._close_run(run)
        await thread.close()


def _args(failure: Failure) -> tuple[Any, ...] | None:
    if failure.item is None:
        return None
    with suppress(Exception):
        return restore(failure.item)  # type: ignore[no-any-return]
    return None


def _revived(failure: Failure) -> FailedItem:
    try:
        error: BaseException = restore(failure.value)
    except Exception as why:  # noqa: BLE001 - whatever unpickling raises
        error = why
    at = datetime.fromtimestamp(failure.at, UTC)
    name, version, key = failure.name, failure.version, failure.key
    return FailedItem(name, version, key, _args(failure), error, failure.attempts, at)


async def _again(rows: Sequence[Row]) -> AsyncGenerator[Row, None]:
    for row in rows:
        yield row
