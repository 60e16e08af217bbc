"""One function over one input with a journal: what goes where, on the event loop.

::

    rows ──► fresh ──► find ──┬── known ──────────────────────────────┐
    (puller)        (thread)  ├── running already ► waits for that    ├──► ready ──► consumer
                              └── sent ──► pool ──► ended ──► save ───┘
                                  (feed)         (pump)     (thread)

- The puller holds at most ``width`` rows that the consumer has not taken; all else is bounded by
  it. Rows are looked up many at a time: all that came while the last ones were looked up.
- The thread answers in order: what a look-up did not find is waited for, or has not been sent yet.
- How calls ended is saved a group at a time: after ``LINGER`` seconds, or at once if no call runs,
  or if there are many. A call becomes ready, and so can be taken, when the save that
  holds it has been committed. So nothing that was reported is ever executed again.
- A run that is closed lets the calls that have ended be saved, and stops the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from aiopool import Outcome
from aiopool._journal.identity import check_key
from aiopool._journal.store import Ended

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping

    from aiopool import Pool, Stream
    from aiopool._journal.identity import Key
    from aiopool._journal.store import Row, Store

LINGER: Final = 0.01
"""Seconds for which what has ended waits for company."""

MOST_AT_ONCE: Final = 256
"""Rows looked up, or results saved, in one go, so that neither side waits long for the other."""


@final
class Plan(NamedTuple):
    """What a run executes, and how."""

    fn: Callable[..., Any]
    task: int
    arity: int
    rows: AsyncGenerator[Row, None]
    ordered: bool
    width: int
    since: float  # a call that failed before this time is executed again
    options: Mapping[str, Any]


@final
class Thread:
    """A store, and the thread that all of its methods run in."""

    def __init__(self, store: Store) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.store = store
        self._executor = ThreadPoolExecutor(1, "aiopool-journal")

    def do(self, method: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Start a method of the store, after those started before; what it will give."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._executor, self.store.guarded, method, *args)

    async def close(self) -> None:
        """Let the last method end, close the file, and end the thread."""
        try:
            await settled(self.do(self.store.close))
        finally:
            self._executor.shutdown(wait=False)

    def abandon(self) -> None:
        """End the thread of a store that could not be opened."""
        self._executor.shutdown(wait=False)


async def settled(future: asyncio.Future[Any]) -> None:
    """Wait until it is done, however often the caller is cancelled meanwhile; then raise that."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        with suppress(BaseException):  # its own end gives way, and counts as seen
            future.result()
        raise cancelled
    future.result()


async def rows_of(
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]], key: Callable[..., object] | None
) -> AsyncGenerator[Row, None]:
    """The calls that the iterables stand for, zipped as ``pool.map`` does, with their keys."""
    iterators: list[Iterator[Any] | AsyncIterator[Any]] = [
        aiter(each) if isinstance(each, AsyncIterable) else iter(each) for each in iterables
    ]
    try:
        while True:
            args = []
            try:
                for each in iterators:
                    item = await anext(each) if isinstance(each, AsyncIterator) else next(each)
                    args.append(item)
            except (StopIteration, StopAsyncIteration):
                return
            yield None if key is None else check_key(key(*args)), tuple(args)
    finally:
        for each in iterators:
            if (aclose := getattr(each, "aclose", None)) is not None:
                await aclose()


@final
class Run:
    """Calls of one function that are under way."""

    def __init__(self, thread: Thread, pool: Pool, plan: Plan) -> None:
        self._thread = thread
        self._plan = plan
        self.task = plan.task
        self._fresh: list[Row] = []  # pulled and not looked up
        self._pulled = self._taken = 0
        self._feeding = self._input_ended = False
        self._input_error: BaseException | None = None
        self._args: tuple[Any, ...] = ()  # of the call that is being handed to the pool
        self._sent: dict[int, tuple[Key, tuple[Any, ...], int]] = {}  # by index in the pool's input
        self._waiting: dict[Key, list[int]] = {}  # places of duplicates of what runs, by key
        self._ended: list[tuple[int, Outcome[Any], Ended]] = []  # not being saved yet
        self._saving: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._early: dict[int, Outcome[Any]] = {}  # ready, waiting for those before them
        self._next = 0
        self.ready: deque[Outcome[Any]] = deque()
        self._unsavable = False  # a save failed, and what ended since is lost
        self._error: BaseException | None = None
        self._stopped = self._done = False
        self._news, self._room, self._arrival = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        options = {"buffersize": plan.width, **plan.options}
        stream = pool.stream(plan.fn, *self._columns(), ordered=False, **options)
        self._stream: Stream[Any] = stream
        self._puller = asyncio.create_task(self._pull())
        self._pump = asyncio.create_task(self._pump_stream())

    # The input --------------------------------------------------------------------------------

    async def _pull(self) -> None:
        try:
            async with aclosing(self._plan.rows) as rows:
                async for row in rows:
                    self._fresh.append(row)
                    self._pulled += 1
                    self._news.set()
                    while self._is_ahead():
                        self._room.clear()
                        await self._room.wait()
        except asyncio.CancelledError:
            if not self._stopped:
                self._input_error = RuntimeError("the input was cancelled, and not by this run")
        except Exception as error:  # noqa: BLE001 - the caller's iterator; the caller gets it
            self._input_error = error
        finally:
            self._input_ended = True
            self._news.set()

    def _is_ahead(self) -> bool:
        return self._pulled - self._taken >= self._plan.width or len(self._fresh) >= MOST_AT_ONCE

    def _columns(self) -> list[AsyncIterator[Any] | Iterator[Any]]:
        """The input of the pool: the first column moves on, the others give the rest of the row."""
        first = [self._feed()] if self._plan.arity else []
        return [*first, *map(self._column, range(1, self._plan.arity))]

    def _column(self, number: int) -> Iterator[Any]:
        while True:
            yield self._args[number]

    async def _feed(self) -> AsyncIterator[Any]:
        self._feeding = True
        place = index = 0
        while rows := await self._looked_up():
            missing = []
            for args, (key, ended) in rows:
                if ended is not None:
                    self._arrived(_outcome(place, ended))
                elif key in self._waiting:
                    self._waiting[key].append(place)
                else:
                    self._waiting[key] = []
                    missing.append((key, args, place))
                place += 1
            for each in missing:
                self._sent[index] = each
                self._args = each[1]
                index += 1
                yield each[1][0]
        if self._input_error is not None:
            raise self._input_error

    async def _looked_up(self) -> list[tuple[tuple[Any, ...], tuple[Key, Ended | None]]]:
        """All rows that have come, with what is known of them; none after the last."""
        while not self._fresh:
            if self._input_ended:
                return []
            self._news.clear()
            await self._news.wait()
        rows, self._fresh = self._fresh, []
        self._room.set()
        plan, store = self._plan, self._thread.store
        found = await self._thread.do(store.find, plan.task, rows, plan.since)
        return [(args, answer) for (_, args), answer in zip(rows, found, strict=True)]

    # The calls --------------------------------------------------------------------------------

    async def _pump_stream(self) -> None:
        try:
            async for outcome in self._stream.outcomes():
                self._call_ended(outcome)
        except asyncio.CancelledError:
            if not self._stopped:
                self.fail(RuntimeError("the run was cancelled, and not by its consumer"))
        except Exception as error:  # noqa: BLE001 - the consumer gets it
            self.fail(error)
        finally:
            await self._all_saved()
            self._conclude()

    def _call_ended(self, outcome: Outcome[Any]) -> None:
        key, args, place = self._sent.pop(outcome.index)
        ended = Ended(key, args, outcome.value, outcome.error, outcome.attempts)
        self._ended.append((place, outcome, ended))
        self._save_in_time()

    def _save_in_time(self) -> None:
        if not self._sent or len(self._ended) >= min(self._plan.width // 2, MOST_AT_ONCE):
            self._save()
        elif self._timer is None and self._saving is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._save)

    def _save(self) -> None:
        """Have saved what has ended, unless a save is under way: that ends with this."""
        if self._saving is not None or not self._ended:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        group, self._ended = self._ended, []
        ends = [ended for _, _, ended in group]
        plan, store = self._plan, self._thread.store
        self._saving = self._thread.do(store.save, plan.task, plan.fn, ends)
        self._saving.add_done_callback(lambda saving: self._were_saved(group, saving))

    def _were_saved(
        self, group: list[tuple[int, Outcome[Any], Ended]], saving: asyncio.Future[Any]
    ) -> None:
        self._saving = None
        if (error := saving.exception()) is not None:
            self._unsavable = True
            self.fail(error)
            return
        for (place, outcome, _), ended in zip(group, saving.result(), strict=True):
            self._arrived(_outcome(place, ended, outcome))
            for other in self._waiting.pop(ended.key):
                self._arrived(_outcome(other, ended))
        if self._ended:
            self._save_in_time()

    async def _all_saved(self) -> None:
        while not self._unsavable and (self._ended or self._saving is not None):
            self._save()
            if self._saving is not None:
                await asyncio.wait([self._saving])

    # The consumer -----------------------------------------------------------------------------

    def _arrived(self, outcome: Outcome[Any]) -> None:
        if not self._plan.ordered:
            self.ready.append(outcome)
        else:
            self._early[outcome.index] = outcome
            while (due := self._early.pop(self._next, None)) is not None:
                self.ready.append(due)
                self._next += 1
        self._arrival.set()

    def take(self) -> Outcome[Any]:
        """One of those that are ready: the window moves on."""
        self._taken += 1
        if self._pulled - self._taken <= self._plan.width * 3 // 4:
            self._room.set()
        return self.ready.popleft()

    async def wait(self) -> bool:
        """Wait until there are some to take; False after the last; raises what ended the run."""
        while not self.ready:
            if self._done:
                if self._error is not None:
                    raise self._error
                return False
            self._arrival.clear()
            await self._arrival.wait()
        return True

    def fail(self, error: BaseException) -> None:
        """Stop for good: the consumer gets the first error after all that is ready."""
        if self._error is None:
            self._error = error
        self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._puller.cancel()
        self._stream.stop()
        if not self._feeding:  # it waits for room in the pool, and no call has been sent
            self._pump.cancel()

    def _conclude(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._done = True
        self._arrival.set()

    def forsake(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """The consumer is gone without closing; may be called in any thread."""
        loop = self._pump.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(close()))

    async def close(self) -> None:
        """Stop what runs; returns when all that has ended is saved, however often cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await settled(self._closing)

    async def _close(self) -> None:
        self._stop()
        await asyncio.wait([self._puller, self._pump])
        self._conclude()  # if it was cancelled before it began
        self.ready.clear()
        self._early.clear()


def _outcome(place: int, ended: Ended, outcome: Outcome[Any] | None = None) -> Outcome[Any]:
    """How the call at a place of the input ended: just now, or once."""
    _, args, value, error, attempts = ended
    item = args[0] if len(args) == 1 else args
    if outcome is None:
        return Outcome(place, item, value, error, attempts)
    times = outcome.queued_for, outcome.ran_for
    return Outcome(place, item, value, error, attempts, outcome.pid, *times)
