"""Plain callables in any ``concurrent.futures.Executor``: threads of our own, or one given.

One call is one ``loop.run_in_executor``. A call that runs cannot be stopped here: its result is
dropped, and its place stays taken until it ends. Inline execution, for tests and debugging, is an
executor too: one that runs the call then and there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Executor, Future
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, final

from aiopool._wire.failure import harmless
from aiopool.errors import TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from aiopool._backends.base import Client
    from aiopool._core.scheduler import CountedVenue
    from aiopool._core.workload import Batch, Workload

_T = TypeVar("_T")


async def join(executor: Executor) -> None:
    """Shut an executor down and wait for its threads, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    joined = loop.create_future()

    def shut_down() -> None:
        executor.shutdown(wait=True)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_resolve, joined)

    try:
        threading.Thread(target=shut_down, name="aiopool join", daemon=True).start()
    except RuntimeError:  # there are no more threads to be had: the others end by themselves
        executor.shutdown(wait=False)
    else:
        await joined


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@final
class InlineExecutor(Executor):
    """Runs each call at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:  # noqa: ANN401 - Executor's own signature
        """Run it; the future is done when this returns."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the future's
            future.set_exception(error)
        return future


def perform(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Run a call, in an executor: whether it returned, and its value or its exception.

    What a future or the event loop would choke on comes as a ``RemoteError``.
    """
    try:
        value = call(*arguments)
    except BaseException as error:  # noqa: BLE001 - whatever a call raises is its own
        return False, harmless(error)
    if asyncio.iscoroutine(value):
        value.close()
        return False, TypeError(f"{call!r} returned a coroutine; pass the async function itself")
    return True, value


@final
class ExecutorBackend:
    """An executor as a place to run calls in."""

    def __init__(
        self, client: Client, venue: CountedVenue, executor: Executor, *, local: bool
    ) -> None:
        self._client = client
        self._venue = venue
        self._executor = executor
        self._local = local  # calls run in this process and see the submitter's context
        self._running: dict[asyncio.Future[tuple[bool, Any]], Batch] = {}
        self._dropped: set[Batch] = set()  # told of already; only their places are taken still

    def assign(self, now: float) -> None:
        """Start what is to start now."""
        for batch in self._venue.assign(now):
            self._start(batch)

    def stop(self, workload: Workload, error: Exception | None) -> None:
        """Give up on the running calls of a workload."""
        for future, batch in list(self._running.items()):
            if batch.workload is workload:
                self._drop(future, error)

    def _start(self, batch: Batch) -> None:
        workload = batch.workload
        function, item = workload.function, batch.items[0]
        arguments = tuple(item) if workload.star else (item,)
        loop = asyncio.get_running_loop()
        try:
            if self._local:
                context: Context = workload.context.copy()
                future = loop.run_in_executor(
                    self._executor, context.run, perform, function.call, arguments
                )
            else:
                future = loop.run_in_executor(self._executor, perform, function.call, arguments)
        except Exception as error:  # noqa: BLE001 - an executor that is shut down, or broken
            self._client.failed(batch, error, 0.0, None)
            self._client.settled(batch)
            return
        self._running[future] = batch
        if workload.settings.timeout is not None:
            loop.call_later(workload.settings.timeout, self._expire, future)
        future.add_done_callback(self._done)

    def _expire(self, future: asyncio.Future[tuple[bool, Any]]) -> None:
        """Its time is up; a result that has come while the loop was busy counts all the same."""
        if not future.done():
            asyncio.get_running_loop().call_soon(self._give_up, future)

    def _give_up(self, future: asyncio.Future[tuple[bool, Any]]) -> None:
        batch = None if future.done() else self._running.get(future)
        if batch is not None and batch.workload.settings.timeout is not None:
            self._drop(future, TaskTimeout(batch.workload.name, batch.workload.settings.timeout))

    def _drop(self, future: asyncio.Future[tuple[bool, Any]], error: Exception | None) -> None:
        """Tell of a call as ended; its place stays taken until it has."""
        batch = self._running[future]
        if batch in self._dropped:
            return
        self._dropped.add(batch)
        if error is None:
            self._client.stopped(batch, started=True)
        else:
            self._client.failed(batch, error, monotonic() - batch.started, None)

    def _done(self, future: asyncio.Future[tuple[bool, Any]]) -> None:
        batch = self._running.pop(future)
        if batch in self._dropped:
            self._dropped.discard(batch)
        else:
            self._tell(batch, future)
        self._client.settled(batch)
        self._client.changed()

    def _tell(self, batch: Batch, future: asyncio.Future[tuple[bool, Any]]) -> None:
        seconds = monotonic() - batch.started
        if future.cancelled():
            self._client.stopped(batch, started=True)
            return
        broken = future.exception()
        good, value = (False, broken) if broken is not None else future.result()
        if good:
            self._client.succeeded(batch, (value,), seconds, None)
        else:
            self._client.failed(batch, harmless(value), seconds, None)
