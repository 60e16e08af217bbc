"""What ``journal.stream`` returns: the consumer's side of a run.

The journal holds the run and not the stream, so a stream that is dropped half way is noticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType

    from aiopool import Outcome
    from aiopool._journal.run import Run

T = TypeVar("T")


@final
class JournalStream(Generic[T]):
    """Results of a function over an input, each committed before it is yielded.

    Use it in ``async with`` to have what is left cancelled, what has ended committed, and an async
    generator given as input closed before the block is left. It can be iterated once.
    """

    def __init__(
        self,
        start: Callable[[], Coroutine[Any, Any, Run]],
        close: Callable[[Run], Coroutine[Any, Any, None]],
        *,
        return_exceptions: bool,
    ) -> None:
        self._start = start
        self._close = close
        self._return_exceptions = return_exceptions
        self._run: Run | None = None
        self._starting = asyncio.Lock()  # held until there is a run
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        outcome = await self._next()
        if outcome.error is None:
            return outcome.value  # type: ignore[return-value]
        if self._return_exceptions:
            return outcome.error  # type: ignore[return-value]
        await self.aclose()
        try:
            return outcome.unwrap()
        finally:
            del outcome  # which holds the error, which holds this frame

    async def outcomes(self) -> AsyncIterator[Outcome[T]]:
        """The same as ``Outcome``s: a call's failure is one of them and ends nothing.

        One of an earlier run has no ``pid`` and no times.
        """
        try:
            while True:
                try:
                    outcome = await self._next()
                except StopAsyncIteration:
                    return
                yield outcome
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is left and commit what has ended; returns when both are done."""
        self._closed = True
        async with self._starting:
            run = self._run
        if run is not None:
            await self._close(run)

    def __del__(self) -> None:
        run = self._run
        if run is not None and not self._closed:
            run.forsake(lambda: self._close(run))

    async def _opened(self) -> Run:
        async with self._starting:
            if self._closed:
                raise RuntimeError("this stream is closed; call journal.stream(...) again")
            if self._run is None:
                self._run = await self._start()
            return self._run

    async def _next(self) -> Outcome[T]:
        if self._closed:
            raise StopAsyncIteration
        run = self._run or await self._opened()
        try:
            if run.ready or await run.wait():
                return run.take()
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        raise StopAsyncIteration
