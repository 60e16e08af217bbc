"""The pool for code that is not async: a ``concurrent.futures.Executor``.

The executor is a handle on its ``Session``, which has the pool and the thread it runs in: when the
executor is dropped, the session finishes what was submitted, and ends.

What is not as in the standard library: docs/from-process-pool-executor.md.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from aiopool._core.options import Settings, resolve
from aiopool._core.retry import check_count
from aiopool._run.pool import Pool
from aiopool._run.session import NO_OPTIONS, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from types import TracebackType
    from typing import TypeVarTuple, Unpack

    from aiopool._core.options import TaskOptions
    from aiopool._run.setup import PoolOptions

    Ts = TypeVarTuple("Ts")

P = ParamSpec("P")
T = TypeVar("T")


class PoolExecutor(Executor):
    """Runs calls in worker processes for code that is not async, as ``ProcessPoolExecutor`` does.

    It is a ``concurrent.futures.Executor``, usable from any thread, in ``loop.run_in_executor``
    and wherever an executor is asked for. The parameters are those of ``Pool``. A worker that dies
    fails the one call it was executing; ``Future.cancel()`` stops a call that runs.

    The pool starts with the first call. Leaving ``with``, ``shutdown()``, the interpreter's exit
    and dropping the executor finish what was submitted; leaving ``with`` by KeyboardInterrupt or
    SystemExit stops it.
    """

    def __init__(self, max_workers: int | None = None, **options: Unpack[PoolOptions]) -> None:
        if type(max_workers) is int and max_workers <= 0:
            message = "max_workers must be greater than 0"  # as executors say it
            raise ValueError(message)
        self._session = Session(Pool(max_workers, **options))

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have ``fn(*args, **kwargs)`` called; its future.

        What cannot be sent and ``PoolFull`` are the future's exception. Raises ``PoolClosed``, a
        RuntimeError, after ``shutdown``.
        """
        return self._session.submit(partial(fn, **kwargs) if kwargs else fn, args, NO_OPTIONS)

    @overload
    def submit_with(
        self, options: TaskOptions, fn: Callable[[*Ts], Coroutine[Any, Any, T]], /, *args: *Ts
    ) -> Future[T]: ...
    @overload
    def submit_with(
        self, options: TaskOptions, fn: Callable[[*Ts], T], /, *args: *Ts
    ) -> Future[T]: ...
    def submit_with(
        self, options: TaskOptions, fn: Callable[[*Ts], Any], /, *args: *Ts
    ) -> Future[Any]:
        """As ``submit``, under options: ``submit_with({"priority": -10, "retry": 3}, fn, 1)``.

        Raises TypeError or ValueError for options out of range.
        """
        resolve(options, Settings())  # a mistake is told at once, not by a future nobody reads
        return self._session.submit(fn, args, options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` with each item; an iterator over the results, in input order.

        Inputs are taken at once, here; with ``buffersize`` only so many ahead of the results taken.
        The iterator raises TimeoutError where a result is not there ``timeout`` seconds after this
        call. It ends with the first failure, and then, or closed early, cancels what is left.
        ``chunksize`` is not needed: the pool sends short calls together by itself.
        """
        check_count("chunksize", chunksize, optional=False)
        ahead = check_count("buffersize", buffersize)
        deadline = None if timeout is None else monotonic() + timeout
        if ahead is not None:
            rows = zip(*iterables)  # noqa: B905 - as Executor.map does

            def submit(row: tuple[Any, ...]) -> Future[T]:  # keeps the executor in use
                return self._session.submit(fn, row, NO_OPTIONS)

            return _slide(submit, rows, deque(map(submit, islice(rows, ahead))), deadline)
        if len(iterables) == 1:
            return self._session.map(fn, [list(iterables[0])], deadline)
        columns = list(zip(*zip(*iterables), strict=True))  # noqa: B905 - as above
        return self._session.map(fn, columns, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's own signature
        """Take no more calls, finish those submitted, and let go of every resource.

        With ``wait`` it returns when all is gone, except in a callback of one of its futures,
        which cannot wait for itself; KeyboardInterrupt while it waits stops what is left. With
        ``cancel_futures`` calls that have not started are cancelled. Idempotent, from any thread.
        """
        self._session.end(self._session.cancel_waiting if cancel_futures else None)
        self._session.join() if wait else self._session.join_later()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave_now = exc_type is not None and not issubclass(exc_type, Exception)
        self._session.end(self._session.stop_all if leave_now else None)
        self._session.join()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            session.end()
            session.join_later()

    def __repr__(self) -> str:
        return f"<PoolExecutor over {self._session.pool!r}>"


def _slide(
    submit: Callable[[tuple[Any, ...]], Future[T]],
    rows: Iterator[tuple[Any, ...]],
    window: deque[Future[T]],
    deadline: float | None,
) -> Iterator[T]:
    """The results of a window over calls, one more submitted for each that is taken."""
    try:
        while window:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            window[0].exception(left)
            for row in islice(rows, 1):
                window.append(submit(row))
            yield window.popleft().result()
    finally:
        for call in window:
            call.cancel()
