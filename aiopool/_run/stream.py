"""What ``pool.stream`` returns: results as they come, pulling no further ahead than asked.

A ``Flow`` is the pool's side, the sink of the workload; it keeps results a batch at a time and says
how many items may still be pulled. A ``Stream`` is the consumer's side. The pool holds the flow and
not the stream, so a stream that is dropped half way is noticed and what is left of it cancelled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeVar, final

from aiopool._core.estimate import QUANTUM
from aiopool._core.outcome import Outcome
from aiopool._run.sources import in_all
from aiopool._run.ticket import Ticket, Turn
from aiopool.errors import PoolClosed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from types import TracebackType

    from aiopool._core.workload import Batch, Workload
    from aiopool._run.engine import Engine
    from aiopool._run.sources import Input

T = TypeVar("T")

_WIDEST: Final = 4096
"""Items pulled ahead of the consumer at most, where ``buffersize`` is not given."""


class Chunk(NamedTuple):
    """Consecutive results: ``values``, or one ``error``."""

    batch: Batch
    values: Sequence[Any]
    error: BaseException | None
    seconds: float
    pid: int | None

    def outcome(self, place: int) -> Outcome[Any]:
        """All that is known of one of them."""
        batch = self.batch
        return Outcome(
            batch.indices[place],
            batch.items[place],
            None if self.error is not None else self.values[place],
            self.error,
            batch.attempt,
            self.pid,
            max(0.0, batch.started - batch.workload.since),
            self.seconds / len(batch),
        )


@final
class Flow:
    """The sink of a stream, and the window on its input."""

    def __init__(
        self, engine: Engine, *, ordered: bool, buffersize: int | None, narrowest: int
    ) -> None:
        self._engine = engine
        self._ordered = ordered
        self._buffersize = buffersize
        self._narrowest = narrowest  # items that keep every place busy
        self._early: dict[int, Chunk] = {}  # by first index, waiting for those before them
        self._ready: deque[Chunk] = deque()
        self._next = 0  # index that an ordered stream hands out next
        self._told = 0  # calls that have ended or were stopped
        self._dropped = 0  # those that were stopped
        self._yielded = 0
        self._input_ended = False
        self._waiter: asyncio.Future[None] | None = None
        self.concluded = False
        self.closed = False
        self._closers: list[Ticket[None]] | None = None  # who waits while another closes
        self.cut_off = False  # by the pool's closing
        self._at_end: list[Callable[[], None]] = []
        self._halted = False  # by the consumer
        self.workload: Workload
        self.input: Input

    def begin(self, workload: Workload, source: Input) -> None:
        """Start pulling."""
        self.workload = workload
        self.input = source

    # The source's side: the input through the window ------------------------------------

    def take(self, count: int, /) -> Sequence[Any]:
        """Up to ``count`` items, as many as the window has room for."""
        room = self.room()
        return self.input.take(min(count, room)) if room > 0 else ()

    def remaining(self) -> int | None:
        """Items that could be taken now, None if not known."""
        left = self.input.remaining()
        room = max(0, self.room())
        return room if left is None and room == 0 else left if left is None else min(left, room)

    def room(self) -> int:
        """Items that may be taken, or held ahead, without the window growing too wide."""
        return self._width() - (self.workload.next_index - self._yielded)

    def _width(self) -> int:
        if self._buffersize is not None:
            return self._buffersize
        cost = self.workload.cost.seconds
        if cost is None:
            return self._narrowest
        return max(self._narrowest, min(_WIDEST, int(self._narrowest * 2 * QUANTUM / cost)))

    # The sink's side ----------------------------------------------------------------------

    def values(self, batch: Batch, values: Sequence[Any], seconds: float, pid: int | None) -> None:
        """These calls returned."""
        self._arrived(Chunk(batch, values, None, seconds, pid))

    def error(self, batch: Batch, error: Exception, seconds: float, pid: int | None) -> None:
        """This one failed for good; it is raised when the consumer gets to it."""
        self._arrived(Chunk(batch, (None,), error, seconds, pid))

    def attempted(self, batch: Batch, seconds: float, pid: int | None) -> None:
        """An attempt failed and another is to follow."""

    def stopped(self, batch: Batch) -> None:
        """These were stopped, or will not start."""
        self._dropped += len(batch)
        self._tell(len(batch))

    def ended(self) -> None:
        """No more calls will be taken from the input."""
        self._input_ended = True
        self._tell(0)

    def counts(self) -> tuple[int, int | None]:
        """Calls that have ended, and how many there are in all, None if that is not known."""
        return self._told - self._dropped, in_all(self.input, self.workload.next_index)

    def at_end(self, act: Callable[[], None]) -> None:
        """Have something done as soon as no call of it is left."""
        if self.concluded:
            act()
        else:
            self._at_end.append(act)

    def _arrived(self, chunk: Chunk) -> None:
        if self._ordered:
            self._early[chunk.batch.indices[0]] = chunk
            while (chunk_now := self._early.pop(self._next, None)) is not None:
                self._ready.append(chunk_now)
                self._next += len(chunk_now.batch)
        else:
            self._ready.append(chunk)
        self._tell(len(chunk.batch))

    def _tell(self, count: int) -> None:
        self._told += count
        if self._told >= self.workload.next_index and not self.concluded:
            if self._input_ended:
                self.concluded = True
                self._engine.concluded(self.workload)
                acts, self._at_end = self._at_end, []
                for act in acts:
                    act()
            else:
                self.workload.probe()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The consumer's side ------------------------------------------------------------------

    async def chunk(self) -> Chunk | None:
        """The next results, None after the last; raises what the input raised."""
        while not self._ready:
            if self.concluded:
                self._raise_end()
                return None
            waiter = Turn(self._engine.loop)
            self._waiter = waiter
            await waiter
        return self._ready.popleft()

    def consumed(self, count: int) -> None:
        """The consumer has taken so many results: the window moves on."""
        self._yielded += count
        if self._input_ended or self.workload.entry is not None:
            return
        if self.room() >= max(1, self._width() // 4):
            self.input.widen()
            self._engine.more(self.workload)

    def cut(self) -> None:
        """Pull nothing more: the pool drains, and may not wait for a consumer."""
        if not self._input_ended and not self.cut_off:
            self.cut_off = True
            self._buffersize = 0
            self.ended()

    async def close(self) -> None:
        """Cancel what is left and close the input; returns when all of it has stopped."""
        if self._closers is not None:
            await self._closed_by_another(self._closers)
            return
        self._closers = []
        try:
            await self._stopped()
        finally:
            self._ready.clear()
            self._early.clear()
            try:
                await self.input.aclose()
            finally:
                self.closed = True
                for waiting in self._closers:
                    waiting.conclude(None)

    async def _stopped(self) -> None:
        """Stop what is left, and wait until it has stopped."""
        if not self.concluded:
            ended: Ticket[None] = Ticket(self._engine.loop)
            self.at_end(lambda: ended.conclude(None))
            self.stop()
            await ended

    async def _closed_by_another(self, closers: list[Ticket[None]]) -> None:
        if not self.closed:
            closed: Ticket[None] = Ticket(self._engine.loop)
            closers.append(closed)
            await closed

    def stop(self) -> None:
        """Cancel what is left."""
        self._engine.stop(self.workload)

    def halt(self) -> None:
        """Cancel what is left, as the consumer asks who will still take what has finished."""
        self._halted = True
        self.stop()

    def forsake(self) -> None:
        """The consumer is gone without closing; may be called in any thread."""
        loop = self._engine.loop
        if not self.concluded and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(self.close()))

    def _raise_end(self) -> None:
        if self.input.error is not None:
            raise self.input.error
        if self.workload.reason is not None:
            raise self.workload.reason
        if self.cut_off:
            message = "the pool was closed before the stream had pulled all of its input"
            raise PoolClosed(message)
        if self.workload.stopped and not self._halted:
            message = "the pool was closed while the stream was running"
            raise PoolClosed(message)


@final
class Stream(Generic[T]):
    """Results of a function over an input, as they come: an async iterator.

    Use it in ``async with`` to have what is left cancelled, and an async generator given as input
    closed, before the block is left; a stream that is merely dropped is cancelled soon after.
    It starts when first entered or iterated, and can be iterated once.
    """

    def __init__(
        self, start: Callable[[], Coroutine[Any, Any, Flow]], *, return_exceptions: bool
    ) -> None:
        self._start = start
        self._return_exceptions = return_exceptions
        self._flow: Flow | None = None
        self._chunk: Chunk | None = None
        self._place = 0
        self._closed = self._stopped = self._taking = False

    async def __aenter__(self) -> Self:
        await self._open()
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
        chunk = self._chunk
        place = self._place
        if chunk is None or place == len(chunk.batch):
            chunk = await self._next_chunk()
            place = 0
        self._place = place + 1
        self._flow.consumed(1)  # type: ignore[union-attr]
        if chunk.error is None:
            return chunk.values[place]  # type: ignore[no-any-return]
        if self._return_exceptions:
            return chunk.error  # type: ignore[return-value]
        await self.aclose()
        raise chunk.error

    async def outcomes(self) -> AsyncIterator[Outcome[T]]:
        """The same as ``Outcome``s: a call's failure is one of them and ends nothing."""
        try:
            while True:
                try:
                    chunk = await self._next_chunk()
                except StopAsyncIteration:
                    return
                for place in range(len(chunk.batch)):
                    self._flow.consumed(1)  # type: ignore[union-attr]
                    yield chunk.outcome(place)
        finally:
            await self.aclose()

    def stop(self) -> None:
        """Cancel what is left; what has finished is still yielded, and the iteration then ends."""
        if self._flow is None:
            self._closed = self._stopped = True
        else:
            self._flow.halt()

    async def aclose(self) -> None:
        """Cancel what is left and close the input; returns when all of it has stopped."""
        self._closed = True
        self._chunk = None
        if self._flow is not None:
            await self._flow.close()

    def __del__(self) -> None:
        if self._flow is not None:
            self._flow.forsake()

    async def _open(self) -> Flow:
        if self._closed:
            message = "this stream is closed; call pool.stream(...) again"
            raise RuntimeError(message)
        if self._flow is None:
            self._flow = await self._start()
            if self._stopped:  # while it waited for room
                self._flow.halt()
        return self._flow

    async def _next_chunk(self) -> Chunk:
        if self._closed:
            raise StopAsyncIteration
        if self._taking:
            message = "this stream is being iterated by another task already"
            raise RuntimeError(message)
        self._taking = True
        try:
            flow = self._flow or await self._open()
            chunk = await flow.chunk()
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._taking = False
        if chunk is None:
            await self.aclose()
            raise StopAsyncIteration
        self._chunk = chunk
        return chunk
