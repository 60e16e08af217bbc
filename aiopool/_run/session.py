"""A pool in a thread of its own, for callers in any thread: what is behind ``PoolExecutor``.

::

    any thread                         the portal's thread
    submit ──▶ inbox ── one knock ──▶  calls.single ──▶ engine
    Future ◀────────── set_result ───  handle done
    map ────▶ inbox ─────────────────▶ flow
    iterator ◀── queue of chunks ────  pump

The event loop is that of anyio's blocking portal, which starts with the first call. What any
thread wants of the pool goes into an inbox that is emptied once for a burst of calls, so a call
does not cost a round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from anyio.from_thread import start_blocking_portal

from aiopool._backends import leaving
from aiopool._run import calls
from aiopool._run.handle import TaskHandle
from aiopool._run.runner import loop_factory
from aiopool._run.stream import Flow
from aiopool.errors import NotTransferable, PoolClosed, RemoteError, WorkerCrashed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from anyio.abc import TaskStatus

    from aiopool._core.options import TaskOptions
    from aiopool._run.pool import Pool
    from aiopool._run.setup import Machinery

T = TypeVar("T")

_log: Final = logging.getLogger("aiopool")

NO_OPTIONS: Final[TaskOptions] = {}


@final
class _Call(Future[T]):
    """One submitted call; cancelling it stops it.

    It is ``cancelled()`` from then on; ``concurrent.futures.wait`` and ``as_completed`` have it
    once the work has stopped.
    """

    def __init__(
        self, session: Session, fn: Callable[..., T], args: tuple[Any, ...], options: TaskOptions
    ) -> None:
        super().__init__()
        self._session = session
        self._what: tuple[Callable[..., T], tuple[Any, ...], TaskOptions] | None
        self._what = fn, args, options
        self._handle: TaskHandle[T] | None = None  # while the pool has it

    def cancel(self) -> bool:
        """Stop the call; False if it is done."""
        if not super().cancel():
            return False
        self._session.post(self._stop)
        return True

    def running(self) -> bool:
        """Whether it has been given to a worker."""
        handle = self._handle
        return not self.done() and handle is not None and handle.state == "running"

    def begin(self) -> None:
        """Hand it to the pool; on its loop, as all that follows."""
        assert self._what is not None
        (fn, args, options), self._what = self._what, None
        if self.cancelled():
            self._end(CancelledError())
            return
        try:
            self._handle = self._session.start(fn, args, options)
        except Exception as error:  # noqa: BLE001 - what is wrong with the call is its future's
            self._end(error)
        else:
            self._handle.add_done_callback(self._conclude)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _conclude(self, handle: Any) -> None:  # noqa: ANN401 - a TaskHandle[T]
        self._handle = None
        if handle.cancelled():
            self._end(CancelledError())
        else:
            error = handle.exception()
            self._end(error, None if error is not None else handle.result())

    def _end(self, error: BaseException | None, value: Any = None) -> None:  # noqa: ANN401 - a T
        try:
            if isinstance(error, CancelledError):
                super().cancel()
            if not self.set_running_or_notify_cancel():
                return
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(_raw(error))
        except BaseException:  # noqa: BLE001 - a callback's SystemExit would end the loop
            _log.exception("a callback of %r failed", self)
        finally:
            del error  # its traceback holds this frame


class _Results:
    """What a map has brought so far: chunks of it, for the thread that iterates."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Sequence[Any], BaseException | None]] = SimpleQueue()
        self.put = self._queue.put
        self.flow: Flow | None = None
        self._left = False

    async def pump(self, start: Callable[[], Coroutine[Any, Any, Flow]]) -> None:
        """Pass on what comes out of the flow; on the pool's loop."""
        try:
            self.flow = await start()
            if self._left:
                self.flow.stop()
            while (chunk := await self.flow.chunk()) is not None:
                self.flow.consumed(len(chunk.batch))
                self.put((chunk.values, chunk.error))
                del chunk  # or a result would be held until the next one comes
        except PoolClosed:
            self.put(((), CancelledError()))
        except Exception as error:  # noqa: BLE001 - the iterator raises it
            self.put(((), error))

    def stop(self) -> None:
        """The iterator is gone: cancel what is left; on the pool's loop."""
        self._left = True
        if self.flow is not None:
            self.flow.stop()

    def take(self, deadline: float | None) -> deque[Any]:
        """The next results; raises the failure that comes next, and TimeoutError."""
        left = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            values, error = self._queue.get(timeout=left)
        except Empty:
            raise TimeoutError from None
        try:
            if error is not None:
                raise _raw(error)
        finally:
            del error  # its traceback holds this frame
        return deque(values)


@final
class Session:
    """A pool and the thread of its event loop, from the first call to the last."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._lock = threading.RLock()  # a garbage collection in here may end another executor
        self._inbox: list[Callable[[], object]] = []
        self._knocked = False  # the loop has been told of the inbox
        self._refusing = False
        self._cut = False  # maps that have not begun will not
        self._ending = asyncio.Event()
        self._joining = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # once opened
        self._gone = False
        self._thread = self._pid = 0
        self._exits: contextlib.ExitStack
        self._life: Future[None]
        self._parts: Machinery
        self._pumps: asyncio.TaskGroup

    # In any thread ------------------------------------------------------------------------

    def submit(
        self, fn: Callable[..., T], args: tuple[Any, ...], options: TaskOptions
    ) -> Future[T]:
        """Have a call made; its future."""
        call = _Call(self, fn, args, options)
        self._request(call.begin)
        return call

    def map(
        self, fn: Callable[..., T], columns: Sequence[Sequence[Any]], deadline: float | None
    ) -> Iterator[T]:
        """Have a call made for each row of columns of equal length."""
        count = len(columns[0]) if columns else 0
        results = _Results()
        if count:
            self._request(partial(self._begin_map, results, fn, columns, count))
        return self._iterate(results, count, deadline)

    def post(self, act: Callable[[], object]) -> None:
        """Have something done on the loop, after all that was posted before, if it still runs."""
        with self._lock:
            loop = self._loop
            if loop is None:
                return
            self._inbox.append(act)
            if self._knocked:
                return
            self._knocked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._empty_inbox)

    def end(self, first: Callable[[], object] | None = None) -> None:
        """Take no more calls and end when those there are have ended; before that, do ``first``."""
        if not self._is_ours:
            return
        with self._lock:
            self._refusing = True
        if first is not None:
            self.post(first)
        self.post(self._ending.set)

    def join(self) -> None:
        """Wait until all has ended and is gone."""
        if not self._is_there or threading.get_ident() == self._thread:
            return
        try:
            self._life.result()
        except BaseException:
            self.post(self.stop_all)
            self._life.exception()
            raise
        finally:
            with self._joining:
                self._exits.close()
                self._gone = True

    def join_later(self) -> None:
        """See to the end of it in a thread; at the interpreter's exit it is seen to anyway."""
        if self._is_there and not leaving.begun():
            threading.Thread(target=self.join, name="aiopool join", daemon=True).start()

    def abandon(self) -> None:
        """The interpreter exits: finish what was submitted, while there still are threads."""
        self.end()
        with contextlib.suppress(KeyboardInterrupt):  # which has stopped it
            self.join()

    @property
    def _is_there(self) -> bool:
        """Whether there is something to wait for, in this process."""
        return self._loop is not None and not self._gone and self._is_ours

    @property
    def _is_ours(self) -> bool:
        """Whether its threads are in this process, and not in the one that forked it."""
        return self._pid in {0, os.getpid()}

    def _request(self, act: Callable[[], object]) -> None:
        with self._lock:
            if leaving.begun():
                message = "cannot schedule new futures after interpreter shutdown"
                raise RuntimeError(message)
            if self._refusing:
                message = "cannot schedule new futures after shutdown"
                raise PoolClosed(message)
            if not self._is_ours:
                message = "this executor was in use when the process was forked: make a new one"
                raise RuntimeError(message)
            if self._loop is None:
                self._open()
        self.post(act)

    def _open(self) -> None:
        self._pid = os.getpid()
        with contextlib.ExitStack() as stack:
            leaving.remember(self)
            stack.callback(leaving.forget, self)
            options = {"loop_factory": loop_factory()}
            portal = stack.enter_context(start_blocking_portal("asyncio", options))
            self._life, loop = portal.start_task(self._live)
            if leaving.NO_THREADS:  # so that calls that are waiting then have a worker
                with contextlib.suppress(WorkerCrashed):  # the calls to come will tell
                    portal.call(partial(self.pool.run, abs, 0))
            self._exits = stack.pop_all()
        self._loop = loop

    def _iterate(self, results: _Results, count: int, deadline: float | None) -> Iterator[Any]:
        try:
            while count:
                ready = results.take(deadline)
                while ready:
                    count -= 1
                    yield ready.popleft()
        finally:
            if count:
                self.post(results.stop)

    # On the loop --------------------------------------------------------------------------

    async def _live(self, *, task_status: TaskStatus[asyncio.AbstractEventLoop]) -> None:
        self._thread = threading.get_ident()
        async with self.pool, asyncio.TaskGroup() as self._pumps:
            self._parts = self.pool._open_parts()  # noqa: SLF001 - its other face, in the same room
            task_status.started(asyncio.get_running_loop())
            await self._ending.wait()

    def _empty_inbox(self) -> None:
        with self._lock:
            acts, self._inbox = self._inbox, []
            self._knocked = False
        for act in acts:
            act()

    def start(
        self, fn: Callable[..., T], args: tuple[Any, ...], options: TaskOptions
    ) -> TaskHandle[T]:
        """Put a call in line; its handle."""
        parts = self.pool._open_parts()  # noqa: SLF001 - as above; submit keeps handles
        return calls.begin(parts, fn, args, options)

    def _begin_map(
        self,
        results: _Results,
        fn: Callable[..., Any],
        columns: Sequence[Sequence[Any]],
        count: int,
    ) -> None:
        async def start() -> Flow:
            many = calls.Many(self._parts, fn, columns, NO_OPTIONS, star=False)
            await many.enter()
            if self._cut:
                message = "the executor was shut down before this map began"
                raise PoolClosed(message)
            return many.flow(ordered=True, buffersize=count)

        self._pumps.create_task(results.pump(start))

    def cancel_waiting(self) -> None:
        """Cancel the calls that have not started, but those that workers are being started for."""
        self._cut = True
        self._parts.engine.changed()  # what was submitted in the same burst starts first
        workers = self.pool.statistics().workers
        spared = sum(worker.state == "starting" for worker in workers)
        for workload in list(self._parts.engine.live):
            sink = workload.sink
            if isinstance(sink, Flow):
                sink.cut()
            elif isinstance(sink, TaskHandle) and sink.state in {"queued", "waiting"}:
                if spared:
                    spared -= 1
                else:
                    sink.cancel()

    def stop_all(self) -> None:
        """Cancel all calls, and stop those that run."""
        self._cut = True
        self._parts.engine.stop_all()


def _raw(error: BaseException) -> BaseException:
    """The error as executors raise it: SystemExit as itself, elsewhere it comes as another."""
    if isinstance(error, NotTransferable) and isinstance(error.__cause__, SystemExit):
        return error.__cause__  # raised where something was pickled
    if not isinstance(error, RemoteError) or error.type_name != "SystemExit":
        return error
    text = error.message
    left = SystemExit(int(text) if text.lstrip("-").isdecimal() else text or None)
    left.__cause__ = error.__cause__
    return left
