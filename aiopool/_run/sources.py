"""Where ``map`` and ``stream`` take their items from: iterables, plain or async, one or several.

An item of one iterable is passed as it is, items of several as a tuple. Plain iterables are
pulled on the event loop when a worker has room, so the next item is the caller's own code running
there. An async iterable is pulled by a task of its own, a bounded number ahead.

What an iterable raises ends the input and is kept in ``error``; the items before it count.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from aiopool._run.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Items: TypeAlias = Iterable[Any] | AsyncIterable[Any]


class Input(Protocol):
    """A source that knows when it has ended, and why."""

    error: BaseException | None

    def take(self, count: int, /) -> Sequence[Any]:
        """Up to ``count`` items."""

    def remaining(self) -> int | None:
        """Items left, None if not known."""

    def widen(self) -> None:
        """There may be room for more items than before."""

    async def aclose(self) -> None:
        """Pull nothing more and close an async generator given as input."""


def open_input(
    iterables: Sequence[Items],
    *,
    ended: Callable[[], None],
    more: Callable[[], None],
    bound: Callable[[], int],
) -> Input:
    """A source; calls ``ended`` after the last item, ``more`` when there are some to take.

    ``bound`` says how many items may be held ahead at the moment.
    """
    if any(isinstance(iterable, AsyncIterable) for iterable in iterables):
        return FedInput(iterables, ended, more, bound)
    return PulledInput(iterables, ended)  # type: ignore[arg-type]


def check_iterables(iterables: Sequence[object]) -> None:
    """Raise TypeError naming an argument that is no iterable, or if there is none."""
    if not iterables:
        message = "there is nothing to call the function with: pass at least one iterable"
        raise TypeError(message)
    for place, iterable in enumerate(iterables):
        if not isinstance(iterable, (Iterable, AsyncIterable)) and not hasattr(
            iterable, "__getitem__"
        ):
            message = (
                f"iterable number {place + 1} is {iterable!r}, which cannot be iterated over; "
                "pass a list, a generator or an async generator"
            )
            raise TypeError(message)


def in_all(source: Input, taken: int) -> int | None:
    """Items there are in all when so many were taken, None if that is not known."""
    left = source.remaining()
    return None if left is None else taken + left


def spread(rows: Items) -> Items:
    """The items of ``starmap``, each checked to be the arguments of one call."""
    check_iterables((rows,))
    if isinstance(rows, AsyncIterable):
        return _spread_async(rows)
    return (_arguments(place, row) for place, row in enumerate(rows))


@final
class PulledInput:
    """Plain iterables, pulled when there is room."""

    def __init__(self, iterables: Sequence[Iterable[Any]], ended: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._ended = ended
        self._left: int | None = None
        if all(hasattr(iterable, "__len__") for iterable in iterables):
            self._left = min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
        self._iterator: Iterator[Any]
        self._iterator = iter(iterables[0]) if len(iterables) == 1 else zip(*iterables)  # noqa: B905 - as ``map`` does
        self._loop = asyncio.get_running_loop()
        self._done = False
        if self._left == 0:
            self._finish()

    def take(self, count: int, /) -> Sequence[Any]:
        """Pull up to ``count`` items."""
        if self._done:
            return ()
        items: list[Any] = []
        try:
            if count == 1:
                items.append(next(self._iterator))
            else:
                items.extend(islice(self._iterator, count))
        except StopIteration:
            pass  # as fewer items than asked for tell
        except BaseException as error:  # noqa: BLE001 - the caller's iterator; the caller gets it
            self.error = error
        if self._left is not None:
            self._left -= len(items)
        if len(items) < count or self._left == 0:
            self._finish()
        return items

    def remaining(self) -> int | None:
        """Items left, None if not known."""
        return 0 if self._done else self._left

    def widen(self) -> None:
        """There may be room: it is asked for items when there is."""

    async def aclose(self) -> None:
        """Pull nothing more."""
        self._done = True
        self._let_go()

    def _finish(self) -> None:
        self._done = True
        self._loop.call_soon(self._ended)  # once the items just taken are accounted for
        self._let_go()

    def _let_go(self) -> None:
        """Hold neither the caller's items nor the sink, which holds this."""
        self._iterator = iter(())
        self._ended = _nothing


@final
class FedInput:
    """At least one async iterable: a task pulls it and waits when enough is ahead."""

    def __init__(
        self,
        iterables: Sequence[Items],
        ended: Callable[[], None],
        more: Callable[[], None],
        bound: Callable[[], int],
    ) -> None:
        self.error: BaseException | None = None
        self._ended: Callable[[], None] | None = ended
        self._more = more
        self._loop = asyncio.get_running_loop()
        self._ahead: deque[Any] = deque()
        self._room = asyncio.Event()
        self._done = False
        self._bound = bound
        self._feeder = self._loop.create_task(self._feed(iterables))

    def take(self, count: int, /) -> Sequence[Any]:
        """Up to ``count`` of the items pulled ahead."""
        ahead = self._ahead
        items = [ahead.popleft() for _ in range(min(count, len(ahead)))]
        self.widen()
        if self._done and not ahead:
            self._end()
        return items

    def remaining(self) -> int | None:
        """Items left, None if not known."""
        return len(self._ahead) if self._done else None

    def widen(self) -> None:
        """There may be room for more items ahead."""
        self._room.set()

    async def aclose(self) -> None:
        """Stop pulling and close the async iterables; returns when that is done."""
        self._ahead.clear()
        self._feeder.cancel()
        if not self._feeder.done():
            closed: Ticket[None] = Ticket(self._loop)
            self._feeder.add_done_callback(lambda _: closed.conclude(None))
            await closed
        self._bound, self._more = int, _nothing  # of the sink, which holds this

    async def _feed(self, iterables: Sequence[Items]) -> None:
        rows = _rows(iterables)
        ahead = self._ahead
        try:
            while True:
                while len(ahead) >= self._bound():
                    self._room.clear()
                    await self._room.wait()
                ahead.append(await anext(rows))
                self._more()
        except StopAsyncIteration:
            return
        except asyncio.CancelledError:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self.error = RuntimeError("the input cancelled itself")
        except BaseException as error:  # noqa: BLE001 - the caller's iterator; the caller gets it
            self.error = error
        finally:
            await _close(rows)
            self._done = True
            if not self._ahead:
                self._end()

    def _end(self) -> None:
        """Say once that the last item has been taken, when it is accounted for."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self._loop.call_soon(ended)


def _nothing() -> None:
    """Nobody is to be told any more."""


async def _spread_async(rows: AsyncIterable[Any]) -> AsyncIterator[tuple[Any, ...]]:
    place = 0
    async for row in rows:
        yield _arguments(place, row)
        place += 1


def _arguments(place: int, row: object) -> tuple[Any, ...]:
    if not isinstance(row, Iterable):
        message = f"starmap: item {place} is {row!r}; each must be the arguments of one call"
        raise TypeError(message)
    return tuple(row)


async def _rows(iterables: Sequence[Items]) -> AsyncIterator[Any]:
    """The items of one iterable, or the rows of several until the shortest ends."""
    iterators = [
        aiter(iterable) if isinstance(iterable, AsyncIterable) else iter(iterable)
        for iterable in iterables
    ]
    try:
        while True:
            row = []
            for iterator in iterators:
                if isinstance(iterator, AsyncIterable):
                    row.append(await anext(iterator))
                else:
                    row.append(next(iterator))
            yield row[0] if len(row) == 1 else tuple(row)
    except (StopIteration, StopAsyncIteration):
        return
    finally:
        for iterator in iterators:
            await _close(iterator)


async def _close(iterator: object) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
